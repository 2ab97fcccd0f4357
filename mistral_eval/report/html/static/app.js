// The browser of questions: filters, list and question, and the address that names them.

const $ = (id) => document.getElementById(id);
const FIELDS = { b: "benchmark", v: "verdict", s: "subject", f: "flip", k: "reading", t: "words" };

class App {
  constructor(questions) {
    this.questions = questions;
    this.state = { b: "", v: "", r: 0, s: "", f: "", k: "", t: "", q: "" };
    this.turn = 0; // number of the current search; a newer search stops an older one
    this.list = new List(questions, $("list"), (number, enter) => this.open(number, enter));
    this.fill();
    for (const id of ["benchmark", "verdict", "run", "subject", "flip", "reading"]) {
      $(id).addEventListener("change", () => this.changed());
    }
    let timer = 0;
    $("words").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.changed(), 250);
    });
    $("reset").addEventListener("click", () => this.go({ q: this.state.q }));
    $("previous").addEventListener("click", () => this.open(this.list.step(-1), false));
    $("next").addEventListener("click", () => this.open(this.list.step(1), false));
    $("back").addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => this.read());
  }

  /** Fill the filters whose choices depend on the runs. */
  fill() {
    for (const benchmark of this.questions.benchmarks) {
      $("benchmark").append(
        element("option", { value: benchmark.id }, `${benchmark.name} (${benchmark.n})`),
      );
    }
    this.questions.runs.forEach((run, i) =>
      $("run").append(element("option", { value: i }, run.label)),
    );
    const readings = new Set(this.questions.benchmarks.flatMap((one) => one.readings));
    for (const name of readings) $("reading").append(element("option", { value: name }, name));
    $("reading").parentElement.hidden = !readings.size;
    for (const node of document.querySelectorAll(".several"))
      node.hidden = this.questions.runs.length < 2;
  }

  subjects() {
    const chosen = this.questions.benchmarks.filter((one) => one.id === this.state.b);
    const names = chosen.flatMap((one) => one.subjects);
    const options = names.map((name) =>
      element("option", { value: name }, name.replaceAll("_", " ")),
    );
    $("subject").replaceChildren(element("option", { value: "" }, "any"), ...options);
    $("subject").disabled = !names.length;
    if (!names.includes(this.state.s)) this.state.s = "";
    $("subject").value = this.state.s;
  }

  /** Read the state from the address: `#q=name/12&b=name&v=w&t=words`. */
  read() {
    const text = location.hash.slice(1);
    if (!text.includes("=")) return this.go({}, false);
    this.go(Object.fromEntries(new URLSearchParams(text)), false);
    $("questions").scrollIntoView();
  }

  /** Set the state and show it. */
  go(wanted, write = true) {
    const nothing = { b: "", v: "", s: "", f: "", k: "", t: "", q: "" };
    this.state = { ...nothing, ...wanted, r: Number(wanted.r) || 0 };
    for (const [key, id] of Object.entries(FIELDS)) {
      $(id).value = this.state[key];
      if (id !== "subject") this.state[key] = $(id).value; // drops an unknown value
    }
    $("run").value = this.state.r;
    this.state.r = Number($("run").value) || 0;
    this.subjects();
    if (write) this.write();
    this.refresh();
    const number = this.state.q ? this.questions.find(this.state.q) : -1;
    if (number >= 0) this.open(number, true);
    else if (this.state.q) this.missing();
  }

  changed() {
    for (const [key, id] of Object.entries(FIELDS)) this.state[key] = $(id).value;
    this.state.r = Number($("run").value) || 0;
    this.subjects();
    this.write();
    this.refresh();
  }

  write() {
    const parts = Object.entries(this.state).filter(([, value]) => value !== "" && value !== 0);
    const text = new URLSearchParams(parts).toString().replaceAll("%2F", "/");
    history.replaceState(null, "", `#${text || "questions"}`);
  }

  refresh() {
    const turn = ++this.turn;
    const listed = filtered(this.questions, this.state);
    const words = this.state.t.trim();
    if (!words) return this.listed(listed, "", false);
    let shown = 0;
    search(this.questions, listed, words, (found, done) => {
      if (turn !== this.turn) return false;
      this.listed(found.slice(), done ? "" : ", still searching", shown > 0);
      shown = found.length;
      return true;
    });
  }

  listed(numbers, more, grown) {
    const whole = this.questions.total.toLocaleString("en");
    $("count").textContent = `${numbers.length.toLocaleString("en")} of ${whole} questions${more}`;
    this.list.show(numbers, grown);
  }

  async open(number, enter) {
    if (number < 0) return;
    this.state.q = this.questions.link(number);
    this.write();
    this.list.select(number);
    const nodes = await detail(this.questions, number);
    if (this.state.q !== this.questions.link(number)) return;
    $("question").replaceChildren(...nodes);
    $("questions").classList.add("open");
    $("detail").scrollTop = 0;
    if (enter) $("question-title").focus({ preventScroll: true });
  }

  missing() {
    const text = "This report has no question with this name. Choose one from the list.";
    $("question").replaceChildren(element("p", { role: "alert" }, text));
  }

  close() {
    $("questions").classList.remove("open");
    $("list").focus();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("select")) return;
    if (event.key === "Escape") return this.close();
    if (event.target.matches("input")) return;
    if (event.key === "/") $("words").focus();
    else if (event.key === "j") this.open(this.list.step(1), false);
    else if (event.key === "k") this.open(this.list.step(-1), false);
    else return;
    event.preventDefault();
  }
}

inflate("index").then((index) => {
  const app = new App(new Questions(index));
  app.read();
  document.documentElement.dataset.ready = Math.round(performance.now());
});
