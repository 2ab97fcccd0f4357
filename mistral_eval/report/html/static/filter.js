// Filters of the list: benchmark, verdict, subject, flip, what a reply was read as, and words.

const FLIPS = {
  any: (first, other) => first !== "-" && other !== "-" && (first === "c") !== (other === "c"),
  lost: (first, other) => first === "c" && other !== "c" && other !== "-",
  gained: (first, other) => first !== "c" && first !== "-" && other === "c",
};

/** Return the numbers of the questions that pass all filters except the words, in order. */
function filtered(questions, state) {
  const found = [];
  const run = Math.min(state.r, questions.runs.length - 1);
  const other = run || Math.min(1, questions.runs.length - 1);
  const flips = FLIPS[state.f];
  for (const benchmark of questions.benchmarks) {
    if (state.b && benchmark.id !== state.b) continue;
    const subject = state.s ? benchmark.subjects.indexOf(state.s) : -1;
    if (state.s && subject < 0) continue;
    const reading = state.k ? benchmark.readings.indexOf(state.k) : -1;
    if (state.k && reading < 0) continue;
    const mine = benchmark.verdicts[run];
    const [first, second] = [benchmark.verdicts[0], benchmark.verdicts[other]];
    for (let place = 0; place < benchmark.n; place++) {
      if (state.v && mine[place] !== state.v) continue;
      if (state.s && benchmark.subject[place] !== subject) continue;
      if (state.k && benchmark.read[run][place] !== String(reading)) continue;
      if (flips && !flips(first[place], second[place])) continue;
      found.push(benchmark.base + place);
    }
  }
  return found;
}

/** Return a question's searchable text in lower case. */
function haystack(question) {
  const { benchmark } = question;
  const parts = [question.title, question.prompt];
  const { c = [], d = [], g = [], s = "", k = "" } = question.more;
  parts.push(...c, ...d, ...g, s, k);
  for (const answer of question.answers) {
    if (!answer) continue;
    parts.push(String(answer[1] ?? ""), answer[2]);
    for (const [, text, reason, reply] of answer[3]) parts.push(text ?? "", reason, reply);
    if (benchmark.turns) for (const [, , judgment] of answer[5] ?? []) parts.push(judgment);
  }
  return parts.join("\n").toLowerCase();
}

/**
 * Search the listed questions for words, chunk by chunk.
 *
 * `report(found, done)` is called after each chunk; the search stops when it returns false.
 */
async function search(questions, listed, words, report) {
  const needle = words.toLowerCase();
  const found = [];
  let place = 0;
  while (place < listed.length) {
    const benchmark = questions.benchmarkOf(listed[place]);
    const chunk = questions.chunkOf(listed[place]);
    const first = benchmark.base + benchmark.starts[chunk];
    const rows = await questions.chunk(benchmark, chunk);
    for (; place < listed.length && listed[place] < first + rows.length; place++) {
      const question = rows[listed[place] - first];
      if (question.id === words || haystack(question).includes(needle)) found.push(listed[place]);
    }
    if (!report(found, place >= listed.length)) return;
  }
  if (!listed.length) report(found, true);
}
