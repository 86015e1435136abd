"use strict";
// The report's tables: sorted by a click or a key, filtered by words, long ones folded.
const LONG_TABLE = 30;
const ROWS_WHEN_FOLDED = 12;
const ROWS_TO_FILTER = 15;
// 0.812 (0.700-0.900), 12,345, 31 (12.5), <0.001, -1.2e-5: what stands first; "18-39" and "12 hours" are words
const NUMBER = /^([<>\u2264\u2265~]?)\s*([-\u2212+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[-+]?\d+)?)\s*%?(?=$|\s*[(\[;]|,\s|\s*\u00b1)/i;

function readNumber(text) {
  const found = NUMBER.exec(text.trim());
  if (!found || !/\d/.test(found[2])) return null;
  const value = Number(found[2].replace(/,/g, "").replace("\u2212", "-"));
  if (Number.isNaN(value)) return null;
  // below a bound sorts before the bound itself, above it after
  const nudge = { "<": -1, ">": 1 }[found[1]] || 0;
  return { value, nudge };
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// Numbers by value, then words; empty cells and words stay last in either direction.
function compareCells(left, right, direction) {
  const isNumber = [left.number !== null, right.number !== null];
  if (isNumber[0] && isNumber[1]) {
    return direction * (left.number.value - right.number.value || left.number.nudge - right.number.nudge);
  }
  if (isNumber[0] !== isNumber[1]) return isNumber[0] ? -1 : 1;
  if (!left.text !== !right.text) return left.text ? -1 : 1;
  return direction * collator.compare(left.text, right.text);
}

class ReportTable {
  constructor(table) {
    this.table = table;
    this.body = table.tBodies[0];
    this.numKeys = Number(table.dataset.keys || 0);
    this.rows = [...this.body.rows].map((row, place) => ({
      row,
      place,
      cells: [...row.cells].map((cell) => {
        const text = cell.textContent.trim();
        return { text, number: readNumber(text) };
      }),
      words: row.textContent.toLowerCase(),
    }));
    this.headings = [...table.tHead.rows[0].cells];
    this.order = [...this.rows];
    this.sorted = { column: -1, direction: 0 };
    this.filter = "";
    this.isFolded = this.rows.length > LONG_TABLE;
    this.alignNumbers();
    if (this.rows.length > 1) this.headings.forEach((heading, column) => this.addSorting(heading, column));
    this.addTools();
    this.show();
  }

  alignNumbers() {
    this.headings.forEach((heading, column) => {
      const cells = this.rows.map((row) => row.cells[column]).filter((cell) => cell.text);
      if (column < this.numKeys || !cells.length || !cells.every((cell) => /^[-\u2212\d.,<]+$/.test(cell.text))) return;
      heading.classList.add("number");
      for (const { row } of this.rows) row.cells[column].classList.add("number");
    });
  }

  addSorting(heading, column) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...heading.childNodes);
    button.title = "Sort: rising, falling, as printed";
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => this.sort(column));
  }

  addTools() {
    const block = this.table.closest(".block");
    const tools = block.querySelector(".tools");
    if (this.rows.length > ROWS_TO_FILTER) {
      tools.hidden = false;
      this.count = tools.querySelector("output");
      tools.querySelector("input").addEventListener("input", (event) => {
        this.filter = event.target.value;
        this.show();
      });
    }
    if (!this.isFolded) return;
    this.more = block.querySelector(".more");
    this.more.hidden = false;
    this.more.addEventListener("click", () => {
      this.isFolded = !this.isFolded;
      this.show();
    });
  }

  sort(column) {
    const next = { 0: 1, 1: -1, [-1]: 0 };
    const direction = this.sorted.column === column ? next[this.sorted.direction] : 1;
    this.sorted = { column, direction };
    this.order = [...this.rows];
    if (direction) {
      const compare = (one, other) => compareCells(one.cells[column], other.cells[column], direction);
      this.order.sort((one, other) => compare(one, other) || one.place - other.place);
    }
    const words = { 0: "none", 1: "ascending", [-1]: "descending" };
    this.headings.forEach((heading, other) => {
      heading.setAttribute("aria-sort", other === column ? words[direction] : "none");
    });
    this.body.append(...this.order.map(({ row }) => row));
    this.show();
  }

  show() {
    const wanted = this.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = this.order.filter(({ words }) => wanted.every((word) => words.includes(word)));
    const isCut = this.isFolded && !wanted.length;
    const shown = new Set(isCut ? matching.slice(0, ROWS_WHEN_FOLDED) : matching);
    let before = null;
    for (const one of this.order) {
      one.row.classList.toggle("off", !shown.has(one));
      // print shows the folded rows too: none may keep a blank of another order
      this.blankRepeats(one, shown.has(one) ? before : null);
      if (shown.has(one)) before = one;
    }
    if (this.count) this.count.textContent = `${matching.length} of ${this.rows.length} rows`;
    if (!this.more) return;
    this.more.disabled = wanted.length > 0;
    this.more.textContent = isCut ? `Show all ${this.rows.length} rows` : `Show the first ${ROWS_WHEN_FOLDED} rows`;
    this.more.setAttribute("aria-expanded", String(!isCut));
  }

  // A leading value is printed once a group, in the printed order alone: sorted by others, each row says all.
  blankRepeats(one, before) {
    let same = this.sorted.direction === 0 && before !== null;
    for (let column = 0; column < this.numKeys; column += 1) {
      same = same && one.cells[column].text === before.cells[column].text;
      one.row.cells[column].classList.toggle("again", same);
      if (column === 0) one.row.classList.toggle("first", !same);
    }
  }
}

function followReading() {
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll("section[id]")];
  const mark = () => {
    const line = window.innerHeight / 4;
    const current = sections.filter((section) => section.getBoundingClientRect().top <= line).pop();
    for (const [id, link] of links) {
      if (current && id === current.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  document.addEventListener("scroll", mark, { passive: true });
  mark();
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) new ReportTable(table);
  followReading();
});
