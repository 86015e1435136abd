"use strict";
// One stay as a drawing: lanes of numbers above rows of events, on one horizontal axis.
const LEFT = 208;
const RIGHT = 18;
const LANE_HEIGHT = 96;
const ROW_HEIGHT = 17;
const GAP = 30;
// low, middle, high: told apart by colour-blind readers and on light and dark ground; the height says it again
const BIN_COLORS = [[33, 119, 201], [154, 160, 166], [230, 97, 1]];

function makeShape(name, attributes, parent, text) {
  const shape = document.createElementNS("http:" + "//www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, String(value));
  if (text !== undefined) shape.textContent = text;
  if (parent) parent.append(shape);
  return shape;
}

function colorBin(bin, numBins) {
  const at = numBins > 1 ? (2 * bin) / (numBins - 1) : 1;
  const [from, to] = at <= 1 ? [BIN_COLORS[0], BIN_COLORS[1]] : [BIN_COLORS[1], BIN_COLORS[2]];
  const share = at <= 1 ? at : at - 1;
  return `rgb(${from.map((value, index) => Math.round(value + share * (to[index] - value))).join(",")})`;
}

// Round steps so that about `count` ticks lie between low and high.
function chooseTicks(low, high, count, steps) {
  const wanted = (high - low) / count;
  const step = steps.find((one) => one >= wanted) || Math.ceil(wanted / 24) * 24;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) ticks.push(tick);
  return ticks;
}

const HOUR_STEPS = [0.1, 0.2, 0.5, 1, 2, 3, 6, 12, 24, 48, 72, 120, 240, 480];
const VALUE_STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
const PLACE_STEPS = VALUE_STEPS.filter((step) => step >= 1);

// Events: a token with the bin that follows it, in the row of its category.
function groupEvents(stay, content) {
  const events = [];
  const eventOf = [];
  stay.tokens.forEach((token, place) => {
    const word = content.tokens[token];
    const kind = content.kinds[token];
    const bin = content.bins[token];
    const before = events[events.length - 1];
    if (kind === "bin" && before && before.place === place - 1 && before.bin === null) {
      before.bin = bin;
      before.binPlace = place;
      eventOf.push(before);
      return;
    }
    const row = kind !== "bin" && bin !== null ? word.replace(/_Q\d+$/, "") : word;
    const event = { place, kind, row, bin: kind === "bin" ? null : bin, binPlace: null };
    events.push(event);
    eventOf.push(event);
  });
  return { events, eventOf };
}

function groupRows(events, hidden) {
  const kinds = new Map();
  for (const event of events) {
    if (hidden.has(event.kind)) continue;
    if (!kinds.has(event.kind)) kinds.set(event.kind, new Map());
    const rows = kinds.get(event.kind);
    if (!rows.has(event.row)) rows.set(event.row, []);
    rows.get(event.row).push(event);
  }
  return kinds;
}

class Chart {
  constructor(holder, content) {
    this.holder = holder;
    this.content = content;
  }

  draw(stay, settings) {
    this.stay = stay;
    this.axis = settings.axis;
    this.width = Math.max(720, this.holder.clientWidth);
    this.points = [];
    this.svg = makeShape("svg", { role: "img" });
    this.svg.setAttribute("aria-label", `${stay.name}: ${stay.tokens.length} tokens. Everything drawn is in the table below.`);
    this.setScale();
    this.bottom = 8;
    const risks = stay.risks.filter((risk) => risk.model === settings.model);
    if (risks.length) this.drawRisks(risks, settings.outcomes);
    if (stay.bits) this.drawStems("Surprise (bits)", "bits", stay.bits, "stem");
    if (stay.jumps) this.drawStems("Jump of the state", "jumps", stay.jumps, "stem jump");
    this.drawAxis();
    this.drawRows(groupRows(settings.events, settings.hidden));
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.bottom + 6}`);
    this.cross = makeShape("line", { class: "cross", y1: 4, y2: this.bottom, visibility: "hidden" }, this.svg);
    this.chosen = makeShape("g", {}, this.svg);
    this.holder.replaceChildren(this.svg);
  }

  setScale() {
    const values = this.axis === "hours" ? this.stay.hours : this.stay.tokens.map((_, place) => place + 1);
    this.values = values;
    // whole hours around the first and last token: the axis ends where a tick may stand
    this.low = Math.floor(values.reduce((least, value) => Math.min(least, value), Infinity));
    this.high = Math.ceil(values.reduce((most, value) => Math.max(most, value), -Infinity));
    if (this.high === this.low) this.high += 1;
  }

  x(place) {
    return this.scale(this.values[place]);
  }

  scale(value) {
    return LEFT + 8 + ((value - this.low) / (this.high - this.low)) * (this.width - LEFT - RIGHT - 16);
  }

  // Title, grid and labels of a lane of numbers; returns how a value becomes a height.
  startLane(title, most) {
    const top = this.bottom + 18;
    const height = (value) => top + LANE_HEIGHT * (1 - value / most);
    makeShape("text", { class: "title", x: 0, y: top + 9 }, this.svg, title);
    for (const tick of chooseTicks(0, most, 4, VALUE_STEPS)) {
      makeShape("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: height(tick), y2: height(tick) }, this.svg);
      const text = { class: "quiet", x: LEFT - 6, y: height(tick) + 4, "text-anchor": "end" };
      makeShape("text", text, this.svg, String(Number(tick.toFixed(3))));
    }
    this.bottom = top + LANE_HEIGHT;
    return { height, top };
  }

  drawRisks(risks, outcomes) {
    const largest = risks.reduce((most, risk) => risk.values.reduce((one, other) => Math.max(one, other || 0), most), 0);
    const most = Math.min(1, Math.max(0.1, Math.ceil(largest * 10.5) / 10));
    const { height, top } = this.startLane("Risk after each token", most);
    risks.forEach((risk, index) => {
      const style = `risk${outcomes.indexOf(risk.outcome) % 7}`;
      // what was said after a token stands until the next
      const dots = risk.values.flatMap((value, place) => {
        const [x, y] = [this.x(place).toFixed(1), height(value).toFixed(1)];
        return place ? [`${x},${height(risk.values[place - 1]).toFixed(1)}`, `${x},${y}`] : [`${x},${y}`];
      });
      makeShape("polyline", { class: `line ${style}`, points: dots.join(" ") }, this.svg);
      const y = top + 26 + 14 * index;
      makeShape("line", { class: `line ${style}`, x1: 0, x2: 16, y1: y - 4, y2: y - 4 }, this.svg);
      const word = risk.outcome.length > 26 ? `${risk.outcome.slice(0, 25)}\u2026` : risk.outcome;
      makeShape("text", { x: 21, y }, this.svg, word);
      risk.values.forEach((value, place) => this.addPoint("risk", place, height(value), top));
    });
  }

  drawStems(title, lane, values, style) {
    const largest = values.reduce((most, value) => Math.max(most, value || 0), 0) || 1;
    const { height, top } = this.startLane(title, largest * 1.05);
    values.forEach((value, place) => {
      if (value === null) return;
      const x = this.x(place).toFixed(1);
      makeShape("line", { class: style, x1: x, x2: x, y1: height(0), y2: height(value).toFixed(1) }, this.svg);
      this.addPoint(lane, place, height(value), top);
    });
  }

  drawAxis() {
    const y = this.bottom + GAP;
    makeShape("line", { class: "frame", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }, this.svg);
    const isHours = this.axis === "hours";
    const ticks = chooseTicks(this.low, this.high, 10, isHours ? HOUR_STEPS : PLACE_STEPS);
    for (const tick of ticks) {
      const x = this.scale(tick);
      makeShape("line", { class: "frame", x1: x, x2: x, y1: y, y2: y - 4 }, this.svg);
      makeShape("text", { class: "quiet", x, y: y - 8, "text-anchor": "middle" }, this.svg, String(Number(tick.toFixed(2))).replace("-", "\u2212"));
    }
    const title = isHours ? "Hours from admission" : "Token";
    makeShape("text", { class: "title", x: 0, y: y - 4 }, this.svg, title);
    this.bottom = y;
  }

  drawRows(kinds) {
    for (const [kind, rows] of kinds) {
      makeShape("text", { class: "title", x: 0, y: this.bottom + 19 }, this.svg, kind.replace(/_/g, " "));
      this.bottom += 25;
      const sorted = [...rows].sort((one, other) => other[1].length - one[1].length || (one[0] < other[0] ? -1 : 1));
      for (const [word, events] of sorted) this.drawRow(word, events);
    }
  }

  drawRow(word, events) {
    const top = this.bottom;
    const inner = ROW_HEIGHT - 3;
    makeShape("rect", { class: "row", x: LEFT, y: top, width: this.width - LEFT - RIGHT, height: inner }, this.svg);
    const label = word.length > 34 ? `${word.slice(0, 33)}\u2026` : word;
    makeShape("text", { x: LEFT - 6, y: top + 11, "text-anchor": "end" }, this.svg, label);
    const last = Math.max(1, this.content.numBins - 1);
    for (const event of events) {
      const x = this.x(event.place);
      let y = top + inner / 2;
      if (event.bin === null) {
        makeShape("rect", { class: "plain", x: x - 1.5, y: top + 2, width: 3, height: inner - 4 }, this.svg);
      } else {
        y = top + 3 + (inner - 6) * (1 - event.bin / last);
        const fill = colorBin(event.bin, this.content.numBins);
        makeShape("circle", { class: "mark", cx: x.toFixed(1), cy: y.toFixed(1), r: 3.3, fill }, this.svg);
      }
      this.addPoint("events", event.place, y, top);
    }
    this.bottom += ROW_HEIGHT;
  }

  addPoint(lane, place, y, top) {
    this.points.push({ lane, place, x: this.x(place), y, top });
  }

  // The token whose mark is nearest, among those of the lane or row under the pointer.
  find(clientX, clientY) {
    const box = this.svg.getBoundingClientRect();
    const zoom = this.width / box.width;
    const x = (clientX - box.left) * zoom;
    const y = (clientY - box.top) * zoom;
    if (x < LEFT - 10) return null;
    const tall = (point) => (point.lane === "events" ? ROW_HEIGHT : LANE_HEIGHT + 4);
    const inside = this.points.filter((point) => y >= point.top - 4 && y <= point.top + tall(point));
    let best = null;
    for (const point of inside) {
      const distance = Math.hypot(point.x - x, (point.y - y) / (point.lane === "events" ? 1 : 4));
      if (best === null || distance < best.distance) best = { point, distance };
    }
    return best && best.distance < 40 ? best.point.place : null;
  }

  mark(places) {
    this.chosen.replaceChildren();
    this.cross.setAttribute("visibility", places.length ? "visible" : "hidden");
    if (!places.length) return;
    const x = this.x(places[0]);
    this.cross.setAttribute("x1", x);
    this.cross.setAttribute("x2", x);
    for (const point of this.points.filter((one) => places.includes(one.place))) {
      makeShape("circle", { class: "chosen", cx: point.x, cy: point.y, r: 5.5 }, this.chosen);
    }
  }

  // Where a token is on the page, in pixels of the window.
  locate(place) {
    const box = this.svg.getBoundingClientRect();
    return { x: box.left + (this.x(place) * box.width) / this.width, y: box.top };
  }
}
