"use strict";
// The page of timelines: which stay, what is pointed at, and the same numbers as a table.
document.addEventListener("DOMContentLoaded", () => {
  const byId = (id) => document.getElementById(id);
  const content = JSON.parse(byId("content").textContent);
  const chart = new Chart(byId("chart"), content);
  const state = { stay: 0, axis: "hours", model: "", hidden: new Set(), place: null };
  let grouped = { events: [], eventOf: [] };

  const outcomes = [...new Set(content.stays.flatMap((stay) => stay.risks.map((risk) => risk.outcome)))];
  const getStay = () => content.stays[state.stay];
  const write = (value, digits = 3) => (value === null ? "none" : String(Number(value.toPrecision(digits))));
  const writeHour = (hour) => (Math.abs(hour) < 0.005 ? 0 : hour).toFixed(2);

  function make(name, text, parent) {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  // Word, bin and what the bin means, of the event that a token belongs to.
  function nameEvent(event) {
    const stay = getStay();
    if (event.bin === null) return content.tokens[stay.tokens[event.place]];
    const range = (content.ranges[event.row] || [])[event.bin];
    return `${event.row} Q${event.bin}${range ? ` (${range})` : ""}`;
  }

  function listFacts(place) {
    const stay = getStay();
    const event = grouped.eventOf[place];
    const places = event.binPlace === null ? [event.place] : [event.place, event.binPlace];
    const last = places[places.length - 1];
    const join = (values) => places.map((one) => write(values[one])).join(" + ");
    const what = event.binPlace === null ? `${place + 1}` : `${places.map((one) => one + 1).join(" and ")}`;
    const facts = [["Hour", writeHour(stay.hours[place])], ["Token", `${what} of ${stay.tokens.length}`]];
    if (stay.bits) facts.push(["Bits", join(stay.bits)]);
    if (stay.jumps) facts.push(["Jump", join(stay.jumps)]);
    for (const risk of stay.risks.filter((one) => one.model === state.model)) {
      facts.push([risk.outcome, write(risk.values[last])]);
    }
    return { title: nameEvent(event), kind: event.kind.replace(/_/g, " "), facts, places };
  }

  function point(place, at) {
    state.place = place;
    const tip = byId("tip");
    if (place === null) {
      tip.hidden = true;
      chart.mark([]);
      return;
    }
    const { title, kind, facts, places } = listFacts(place);
    chart.mark(places);
    tip.replaceChildren();
    make("b", title, tip);
    make("span", ` ${kind}`, tip);
    const list = make("dl", undefined, tip);
    for (const [name, value] of facts) {
      make("dt", name, list);
      make("dd", value, list);
    }
    tip.hidden = false;
    const room = document.documentElement.clientWidth;
    const left = at.x + 16 + tip.offsetWidth > room ? at.x - tip.offsetWidth - 16 : at.x + 16;
    tip.style.left = `${Math.max(4, left) + window.scrollX}px`;
    tip.style.top = `${at.y + 12 + window.scrollY}px`;
  }

  function move(event) {
    const last = getStay().tokens.length - 1;
    const now = state.place;
    const to = {
      ArrowRight: now === null ? 0 : Math.min(last, now + 1),
      ArrowLeft: now === null ? last : Math.max(0, now - 1),
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") return point(null);
    if (to === undefined) return;
    event.preventDefault();
    const at = chart.locate(to);
    point(to, { x: at.x, y: Math.max(at.y, 60) });
    const { title, facts } = listFacts(to);
    byId("spoken").textContent = `${title}. ${facts.map((fact) => fact.join(" ")).join(", ")}`;
  }

  function fillTable() {
    const stay = getStay();
    const risks = stay.risks.filter((risk) => risk.model === state.model);
    const columns = [["Token", (place) => place + 1], ["Hour", (place) => writeHour(stay.hours[place])],
      ["Word", (place) => content.tokens[stay.tokens[place]]], ["Kind", (place) => content.kinds[stay.tokens[place]]]];
    if (stay.bits) columns.push(["Bits", (place) => write(stay.bits[place])]);
    if (stay.jumps) columns.push(["Jump", (place) => write(stay.jumps[place])]);
    for (const risk of risks) columns.push([`Risk: ${risk.outcome}`, (place) => write(risk.values[place])]);
    const table = byId("list").querySelector("table");
    const head = make("tr");
    for (const [name] of columns) make("th", name, head).scope = "col";
    table.tHead.replaceChildren(head);
    const rows = stay.tokens.map((_, place) => {
      const row = make("tr");
      for (const [, read] of columns) make("td", String(read(place)), row);
      return row;
    });
    table.tBodies[0].replaceChildren(...rows);
  }

  function fillModels() {
    const models = [...new Set(getStay().risks.map((risk) => risk.model))];
    if (!models.includes(state.model)) state.model = models[0] || "";
    byId("model").replaceChildren(...models.map((model) => new Option(model, model, false, model === state.model)));
    byId("models").hidden = models.length < 2;
  }

  function fillKinds() {
    const counts = new Map();
    for (const event of grouped.events) counts.set(event.kind, (counts.get(event.kind) || 0) + 1);
    byId("kinds").querySelectorAll("label").forEach((label) => label.remove());
    for (const [kind, count] of counts) {
      const label = make("label", undefined, byId("kinds"));
      const box = make("input", undefined, label);
      box.type = "checkbox";
      box.checked = !state.hidden.has(kind);
      box.addEventListener("change", () => {
        if (box.checked) state.hidden.delete(kind);
        else state.hidden.add(kind);
        draw();
      });
      label.append(` ${kind.replace(/_/g, " ")} (${count})`);
    }
  }

  function draw() {
    const { axis, model, hidden } = state;
    chart.draw(getStay(), { axis, model, hidden, outcomes, events: grouped.events });
    point(null);
  }

  function explain() {
    const stay = getStay();
    const absent = content.lanes.filter(({ name, isThere }) => isThere && {
      Surprise: !stay.bits, Jump: !stay.jumps, Risk: !stay.risks.length }[name]);
    const bins = content.numBins ? `Dots: value bins, Q0 low and blue to Q${content.numBins - 1} high and orange. ` : "";
    const none = absent.length ? ` Not written for this stay: ${absent.map(({ name }) => name.toLowerCase()).join(", ")}.` : "";
    byId("legend").textContent = `${bins}Bars: tokens without a value. Surprise is of the token given those before it; a jump is how far the model's state moves to it.${none}`;
  }

  function show(number) {
    state.stay = Math.min(content.stays.length - 1, Math.max(0, number));
    const stay = getStay();
    grouped = groupEvents(stay, content);
    byId("stay").value = String(state.stay);
    byId("before").disabled = state.stay === 0;
    byId("after").disabled = state.stay === content.stays.length - 1;
    byId("stay-name").textContent = stay.name;
    byId("about").replaceChildren(...stay.about.map(([name, value]) => {
      const pair = make("div");
      make("dt", name, pair);
      make("dd", value, pair);
      return pair;
    }));
    fillModels();
    fillKinds();
    explain();
    fillTable();
    draw();
  }

  content.stays.forEach((stay, number) => byId("stay").append(new Option(stay.name, String(number))));
  byId("stay").addEventListener("change", (event) => show(Number(event.target.value)));
  byId("before").addEventListener("click", () => show(state.stay - 1));
  byId("after").addEventListener("click", () => show(state.stay + 1));
  byId("model").addEventListener("change", (event) => {
    state.model = event.target.value;
    fillTable();
    draw();
  });
  for (const button of document.querySelectorAll("[data-axis]")) {
    button.addEventListener("click", () => {
      state.axis = button.dataset.axis;
      for (const other of document.querySelectorAll("[data-axis]")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      draw();
    });
  }
  const holder = byId("chart");
  holder.addEventListener("pointermove", (event) => point(chart.find(event.clientX, event.clientY), {
    x: event.clientX, y: event.clientY }));
  holder.addEventListener("pointerleave", () => point(null));
  holder.addEventListener("blur", () => point(null));
  holder.addEventListener("keydown", move);
  let width = 0;
  new ResizeObserver(() => {
    if (content.stays.length && holder.clientWidth !== width) {
      width = holder.clientWidth;
      draw();
    }
  }).observe(holder);
  if (content.stays.length) show(0);
});
