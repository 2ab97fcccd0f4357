// The list: only visible rows exist, so that 60,000 questions scroll as fast as sixty.

const ROW = 56; // pixels, as in report.css
const BEYOND = 8; // rows kept above and below

class List {
  constructor(questions, node, choose) {
    this.questions = questions;
    this.node = node;
    this.choose = choose;
    this.numbers = [];
    this.selected = -1;
    this.rows = new Map(); // place -> element
    this.room = element("div", { class: "room", role: "presentation" });
    node.append(this.room);
    node.addEventListener("scroll", () => this.draw(), { passive: true });
    node.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(node);
  }

  /** Show these questions; keep the scroll position if the list only grew. */
  show(numbers, grown) {
    this.numbers = numbers;
    this.room.style.height = `${numbers.length * ROW}px`;
    if (!grown) {
      this.room.replaceChildren();
      this.rows.clear();
      this.node.scrollTop = 0;
    }
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.node.scrollTop / ROW) - BEYOND);
    const seen = Math.ceil(this.node.clientHeight / ROW) + 2 * BEYOND;
    const last = Math.min(this.numbers.length, first + seen);
    for (const [place, row] of this.rows) {
      if (place < first || place >= last || row.number !== this.numbers[place]) {
        row.remove();
        this.rows.delete(place);
      }
    }
    for (let place = first; place < last; place++) {
      if (!this.rows.has(place)) this.rows.set(place, this.make(place));
    }
    this.mark();
  }

  make(place) {
    const number = this.numbers[place];
    const benchmark = this.questions.benchmarkOf(number);
    const subject = benchmark.subjects[benchmark.subject[number - benchmark.base]];
    const title = element("span", { class: "title", dir: "auto" }, "…");
    const id = this.questions.link(number).slice(benchmark.id.length + 1);
    const about = [benchmark.name, id, subject && subject.replaceAll("_", " ")].filter(Boolean);
    const row = element(
      "div",
      {
        class: "row",
        role: "option",
        id: `row-${number}`,
        "aria-setsize": this.numbers.length,
        "aria-posinset": place + 1,
        "aria-selected": "false",
      },
      element("span", { class: "tags" }, this.tags(benchmark, number)),
      element(
        "span",
        { class: "words" },
        title,
        element("span", { class: "about" }, about.join(" · ")),
      ),
    );
    row.number = number;
    row.style.top = `${place * ROW}px`;
    row.addEventListener("click", () => this.choose(number, true));
    this.room.append(row);
    this.questions.load(number).then((question) => {
      title.replaceChildren();
      put(title, question.title.replace(/\s+/g, " ") || "(no words)");
    });
    return row;
  }

  tags(benchmark, number) {
    return benchmark.verdicts.map((letters) => tag(letters[number - benchmark.base], false));
  }

  /** Mark the selected question's row. */
  mark() {
    for (const row of this.rows.values()) {
      row.setAttribute("aria-selected", String(row.number === this.selected));
    }
    const here = [...this.rows.values()].some((row) => row.number === this.selected);
    if (here) this.node.setAttribute("aria-activedescendant", `row-${this.selected}`);
    else this.node.removeAttribute("aria-activedescendant");
  }

  /** Select a question without calling `choose`, and scroll it into view. */
  select(number) {
    this.selected = number;
    const place = this.numbers.indexOf(number);
    if (place >= 0) {
      const top = place * ROW;
      const room = this.node.clientHeight - ROW;
      const seen = top >= this.node.scrollTop && top <= this.node.scrollTop + room;
      if (!seen) this.node.scrollTop = top - room / 2;
    }
    this.draw();
  }

  /** Return the question `by` rows from the selected one, within the list; -1 if it is empty. */
  step(by) {
    if (!this.numbers.length) return -1;
    const place = this.numbers.indexOf(this.selected);
    const wanted = place < 0 ? 0 : place + by;
    return this.numbers[Math.max(0, Math.min(this.numbers.length - 1, wanted))];
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.node.clientHeight / ROW) - 1);
    const far = this.numbers.length;
    const steps = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
      Home: -far,
      End: far,
    };
    if (event.key === "Enter" && this.selected >= 0) this.choose(this.selected, true);
    else if (event.key in steps) this.choose(this.step(steps[event.key]), false);
    else return;
    event.preventDefault();
  }
}
