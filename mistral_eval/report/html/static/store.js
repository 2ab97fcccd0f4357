// The embedded questions: an index of all of them, loaded at once, and their texts in chunks.

const KEPT = 40; // chunks held in memory, a few hundred kilobytes each
const chunks = new Map();
const parsed = new Promise((resolve) => {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", resolve);
  else resolve();
});

/** Return the JSON value in an embedded element: base64 of deflated text. */
async function inflate(id) {
  if (!document.getElementById(id)) await parsed; // the page is still loading
  const base64 = document.getElementById(id).textContent.trim();
  const bytes = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(base64)
    : Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

/** Return an embedded value; the most recently used ones are cached. */
function kept(id) {
  const value = chunks.get(id) || inflate(id);
  chunks.delete(id);
  chunks.set(id, value);
  if (chunks.size > KEPT) chunks.delete(chunks.keys().next().value);
  return value;
}

/** All questions of all benchmarks, numbered consecutively. */
class Questions {
  constructor(index) {
    this.runs = index.runs;
    this.benchmarks = index.benchmarks;
    this.total = 0;
    this.benchmarks.forEach((benchmark, number) => {
      benchmark.number = number;
      benchmark.base = this.total;
      this.total += benchmark.n;
      benchmark.subjects = [...new Set(benchmark.strata.map(([name]) => name))].filter(Boolean);
      const names = new Map(benchmark.subjects.map((name, place) => [name, place]));
      benchmark.subject = new Int16Array(benchmark.n);
      let place = 0;
      for (const [name, count] of benchmark.strata) {
        benchmark.subject.fill(names.has(name) ? names.get(name) : -1, place, (place += count));
      }
    });
  }

  /** Return a question's benchmark. */
  benchmarkOf(number) {
    return this.benchmarks.findLast((benchmark) => benchmark.base <= number && benchmark.n > 0);
  }

  /** Return a question's name in a link, "name/12". */
  link(number) {
    const benchmark = this.benchmarkOf(number);
    const place = number - benchmark.base;
    return `${benchmark.id}/${benchmark.ids ? benchmark.ids[place] : place}`;
  }

  /** Return the number of the question with this name, or -1. */
  find(link) {
    const [task, ...rest] = link.split("/");
    const benchmark = this.benchmarks.find((one) => one.id === task);
    if (!benchmark) return -1;
    const id = rest.join("/");
    const place = benchmark.ids ? benchmark.ids.indexOf(id) : /^\d+$/.test(id) ? Number(id) : -1;
    return place >= 0 && place < benchmark.n ? benchmark.base + place : -1;
  }

  /** Return the number of a question's chunk. */
  chunkOf(number) {
    const benchmark = this.benchmarkOf(number);
    const place = number - benchmark.base;
    return benchmark.starts.findLastIndex((start) => start <= place);
  }

  /** Return the questions of one chunk, in order. */
  async chunk(benchmark, chunk) {
    const names = ["id", "title", "shots", "prompt", "more", "answers"];
    const rows = await kept(`chunk-${benchmark.number}-${chunk}`);
    return rows.map((row) => {
      const question = { benchmark };
      names.forEach((name, place) => (question[name] = row[place]));
      return question;
    });
  }

  /** Return a question with its texts, from its chunk. */
  async load(number) {
    const benchmark = this.benchmarkOf(number);
    const chunk = this.chunkOf(number);
    const rows = await this.chunk(benchmark, chunk);
    return rows[number - benchmark.base - benchmark.starts[chunk]];
  }

  /** Return a question's few-shot block. */
  async shots(question) {
    if (question.shots < 0) return "";
    return (await kept(`blocks-${question.benchmark.number}`))[question.shots];
  }
}
