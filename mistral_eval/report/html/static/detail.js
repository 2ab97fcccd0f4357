// One question in full: prompt, choices or replies, golds, votes, programs and their checks.

/** Return the nodes that show a question. */
async function detail(questions, number) {
  const question = await questions.load(number);
  const { benchmark, more } = question;
  const subject = benchmark.subjects[benchmark.subject[number - benchmark.base]];
  return [
    element("h3", { tabindex: "-1", id: "question-title" }, `${benchmark.name} ${question.id}`),
    subject ? element("p", { class: "about" }, subject.replaceAll("_", " ")) : null,
    more.d ? block(question.title) : await prompt(questions, question),
    golds(question),
    more.c ? choices(questions, question) : replies(questions, question),
    more.d ? await prompt(questions, question) : null,
    reference(question),
  ].filter(Boolean);
}

/** Return the accepted answers. */
function golds({ more }) {
  if (!more.g) return null;
  const [first, ...rest] = more.g;
  const line = element(
    "p",
    null,
    element("b", null, "Gold: "),
    element("bdi", null, first ?? "none"),
  );
  if (!rest.length) return line;
  const items = rest.map((gold) => element("li", { dir: "auto" }, gold));
  return element(
    "div",
    null,
    line,
    fold(`${rest.length} more accepted`, false, element("ul", null, items)),
  );
}

/** Return the prompt with its shots folded; all of it folded if each choice has its own prompt. */
async function prompt(questions, question) {
  const shots = await questions.shots(question);
  const size = `${shots.length.toLocaleString("en")} characters`;
  const before = shots ? fold(`Shots and instruction, ${size}`, false, block(shots)) : null;
  if (question.more.d)
    return fold("Prompt of the first choice", false, before, block(question.prompt));
  return element(
    "div",
    { class: question.more.k ? "prompt code" : "prompt" },
    before,
    block(question.prompt),
  );
}

function reference({ more }) {
  const parts = [];
  if (more.k) parts.push(fold("Checks", false, block(more.k)));
  if (more.s) parts.push(fold("Reference solution", false, block(more.s)));
  return parts.length ? element("div", null, parts) : null;
}

/** Multiple choice: return every choice with its log-likelihood in each run. */
function choices(questions, { benchmark, more, answers }) {
  const heads = [element("th", { scope: "col" }, "Choice")];
  questions.runs.forEach((run, i) => {
    const verdict = answers[i] ? tag(answers[i][0], true) : tag("-", true);
    heads.push(element("th", { scope: "col" }, `${run.label} `, verdict));
  });
  const rows = more.c.map((text, place) => {
    const gold = place === more.i;
    const whole = more.d ? more.d[place] + text : text;
    const cells = answers.map((answer) => likelihood(answer, place, text, benchmark));
    const mark = gold ? element("span", { class: "gold" }, "gold") : null;
    const name = element("span", { dir: "auto", class: "choice" }, whole.replace(/^ /, ""));
    return element(
      "tr",
      { class: gold ? "is-gold" : "" },
      element("th", { scope: "row" }, mark, name),
      cells,
    );
  });
  const rule = benchmark.normalised
    ? ", and per character, which decides."
    : benchmark.relative
      ? ", and its difference to that without the question, which decides."
      : ", which decides.";
  const how = `Log-likelihood${rule}`;
  return element(
    "div",
    { class: "scroll" },
    element(
      "table",
      { class: "choices" },
      element("thead", null, element("tr", null, heads)),
      element("tbody", null, rows),
    ),
    element("p", { class: "about" }, how),
  );
}

function likelihood(answer, place, text, { normalised, relative }) {
  if (!answer) return element("td", null, "—");
  const value = answer[4][place];
  const chosen = answer[1] === place;
  const length = [...text.replace(/^ /, "")].length;
  const digits = value !== null && value > -1e5 ? value.toFixed(2) : value?.toExponential(0);
  return element(
    "td",
    { class: chosen ? "is-chosen" : "" },
    chosen ? element("b", null, "chosen ") : null,
    digits ?? "-∞",
    normalised && length && value !== null ? small(value / length) : null,
    relative && value !== null ? small(value - answer[5][place]) : null,
  );
}

function small(value) {
  return element("small", null, value.toFixed(3));
}

/** Generation: return each run's verdict, votes and samples, side by side. */
function replies(questions, question) {
  const columns = questions.runs.map((run, i) => {
    const answer = question.answers[i];
    const head = element("h4", null, `${run.label} `, tag(answer ? answer[0] : "-", true));
    return element("section", { class: "run" }, head, answer ? told(question, answer) : null);
  });
  return element("div", { class: "runs" }, columns);
}

function told(question, [, answer, reason, samples, , judgments]) {
  const program = Boolean(question.more.k);
  const turns = question.benchmark.turns;
  const unsafe = Boolean(question.more.u);
  const nodes = [];
  if (!program) {
    const shown =
      answer === null ? element("i", null, "none could be read") : element("bdi", null, answer);
    nodes.push(element("p", null, element("b", null, "Answer: "), shown));
  }
  if (reason)
    nodes.push(
      element("p", null, element("b", null, program ? "First failure: " : "Verdict: "), reason),
    );
  if (samples.length > 1 && !turns) nodes.push(votes(samples));
  samples.forEach(([letter, text, why, reply], i) => {
    const several = turns ? "Turn" : "Sample";
    const one = unsafe ? "Reply to an unsafe prompt" : program ? "Program" : "Reply";
    const name = turns || samples.length > 1 ? `${several} ${i + 1}` : one;
    const source = question.more.j ? question.prompt + reply : reply;
    const summary = element(
      "span",
      null,
      `${name} `,
      tag(letter, true),
      text !== null && !program ? ` ${text}` : "",
    );
    const line = samples.length > 1 && why ? element("p", { class: "about" }, why) : null;
    nodes.push(
      fold(
        summary,
        !unsafe && (turns || i === 0),
        line,
        reply ? block(source) : element("i", null, "(empty reply)"),
      ),
    );
  });
  if (turns) nodes.push(...ratings(judgments ?? []));
  return nodes;
}

/** Return what a judge gave each turn, with its words folded. */
function ratings(judgments) {
  return judgments.map(([turn, rating, text]) =>
    fold(
      element("b", null, `Turn ${turn}: ${rating === null ? "unread" : `rated ${rating}`}`),
      false,
      text ? block(text) : element("i", null, "(empty judgment)"),
    ),
  );
}

/** Return the samples' votes, counted by the text of the answer. */
function votes(samples) {
  const counts = new Map();
  for (const [letter, text] of samples) {
    const key = text ?? "(no answer read)";
    const [count] = counts.get(key) || [0];
    counts.set(key, [count + 1, letter]);
  }
  const items = [...counts].map(([text, [count, letter]]) =>
    element("li", null, tag(letter, false), ` ${count} × `, element("bdi", null, text)),
  );
  return fold(
    "Votes",
    true,
    element("ul", { class: "votes" }, items),
    element(
      "p",
      { class: "about" },
      "Counted by the answer's text; in the vote, equal values written differently count together.",
    ),
  );
}
