// Model output shown as text: this file creates every node of the browser, and nothing in it parses
// markup. Characters that would hide or reorder others are shown as their code points.

const HIDDEN = new RegExp(
  "\\r(?!\\n)|[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b\\u200e\\u200f" +
    "\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]" +
    "|[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]",
  "g",
);

/** Append a text to a node; hidden characters become visible code points. */
function put(parent, text) {
  let from = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > from) parent.append(document.createTextNode(text.slice(from, found.index)));
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const shown = document.createElement("span");
    shown.className = "hidden-char";
    shown.textContent = `U+${code}`;
    parent.append(shown);
    from = found.index + 1;
  }
  parent.append(document.createTextNode(text.slice(from)));
  return parent;
}

/** Create an element with attributes and children: strings become text, null is skipped. */
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    if (child instanceof Node) made.append(child);
    else put(made, String(child));
  }
  return made;
}

/** Create a block of preformatted text with its own direction. */
function block(text) {
  return element("pre", { dir: "auto", tabindex: "0" }, text);
}

/** Create a part that can be folded. */
function fold(summary, open, ...children) {
  return element(
    "details",
    open ? { open: "" } : null,
    element("summary", null, summary),
    children,
  );
}

const VERDICTS = {
  c: ["✓", "correct"],
  w: ["✗", "wrong"],
  n: ["∅", "no answer"],
  t: ["⧖", "timeout"],
  "-": ["·", "not asked"],
};

/** Create a verdict's sign and, if `worded`, its word. */
function tag(letter, worded) {
  const [sign, word] = VERDICTS[letter];
  const shown = element("span", { class: `tag ${letter === "-" ? "none" : letter}` });
  shown.append(element("span", { "aria-hidden": "true" }, sign));
  shown.append(element("span", { class: worded ? "" : "unseen" }, ` ${word}`));
  return shown;
}
