// Markdown to elements: paragraphs, headings, lists, quotations, tables, code, emphasis, links. It makes nodes
// alone, so that nothing in a text can inject; pictures are not loaded but linked to. Every run of plain text is
// handed to `leaf(parent, start, end)` by its place in the text, so that the caller can cut it into tokens.

import { el } from "./dom.js";

const LONGEST = 20_000; // characters of a block that is searched for markup
const DEEPEST = 6;
const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$/;
const LINK = /^\[([^\][\n]{0,500})\]\(([^\s()<>]{1,2000})(?:\s+"[^"\n]{0,500}")?\)/;
const ADDRESS = /^https?:\/\/[^\s<>"'`)\]]{1,2000}/;
const SAFE = /^(https?:|mailto:)/i;
export const SPECIAL = /[*_`[\]\\~\n|<>]|https?:/;

// The blocks of a text from a place on: {kind, start, lines: [[start, end]]}, in order.
export function blocks(text, from = 0) {
  const found = [];
  let open = null;
  const begin = (kind, start, more = {}) => found.push((open = { kind, start, lines: [], ...more }));
  for (let start = from; start < text.length; ) {
    const stop = text.indexOf("\n", start);
    const end = stop < 0 ? text.length : stop;
    const line = text.slice(start, Math.min(end, start + LONGEST));
    const fence = FENCE.exec(line);
    if (open?.kind === "code") {
      if (fence && fence[1].startsWith(open.fence) && !fence[2].trim()) open = null;
      else open.lines.push([start, end]);
    } else if (fence) begin("code", start, { fence: fence[1] });
    else if (!line.trim()) open = null;
    else {
      const kind = HEADING.test(line) ? "heading" : RULE.test(line) ? "rule" : QUOTE.test(line) ? "quote"
        : ITEM.test(line) ? "list" : DIVIDER.test(line) && open?.kind === "text" && open.lines.length === 1 ? "divider" : "text";
      if (kind === "divider") open.kind = "table";
      else if (kind === "heading" || kind === "rule") { begin(kind, start); open.lines.push([start, end]); open = null; }
      else if (open?.kind === "table" && line.includes("|")) open.lines.push([start, end]);
      else {
        const goesOn = open && (open.kind === kind || (kind === "text" && open.kind === "list"));
        if (!goesOn) begin(kind, start);
        open.lines.push([start, end]);
      }
    }
    start = end + 1;
  }
  return found;
}

// One block as an element; `open` is the innermost element where plain text may be added.
export function render(text, block, leaf) {
  const spans = (parent, start, end) => inline(text, parent, start, end, leaf, 0);
  const after = (pattern, [start, end]) => start + (pattern.exec(text.slice(start, end))?.[0].length ?? 0);
  const joined = (parent, lines, pattern) =>
    lines.forEach((line, n) => {
      if (n) parent.append("\n");
      spans(parent, pattern ? after(pattern, line) : line[0], line[1]);
    });
  if (block.kind === "code") {
    const code = el("code");
    block.lines.forEach(([start, end]) => leaf(code, start, Math.min(end + 1, text.length)));
    return { element: el("pre", { tabindex: "0" }, code), open: code };
  }
  if (block.kind === "heading") {
    const [line] = block.lines;
    const depth = HEADING.exec(text.slice(...line))[1].length;
    const heading = el(`h${Math.min(6, depth + 2)}`);
    spans(heading, after(HEADING, line), line[1]);
    return { element: heading, open: heading };
  }
  if (block.kind === "rule") return { element: el("hr"), open: null };
  if (block.kind === "list") return list(text, block, spans);
  if (block.kind === "table") return { element: table(text, block, spans), open: null };
  const element = el(block.kind === "quote" ? "blockquote" : "p");
  joined(element, block.lines, block.kind === "quote" ? QUOTE : null);
  return { element, open: element };
}

function list(text, block, spans) {
  const levels = [];
  const outer = el("div");
  let item = null;
  for (const [start, end] of block.lines) {
    const mark = ITEM.exec(text.slice(start, end));
    if (!mark) {
      item.append("\n");
      spans(item, start, end);
      continue;
    }
    const indent = mark[1].length;
    while (levels.length && levels[levels.length - 1].indent > indent) levels.pop();
    let level = levels[levels.length - 1];
    if (!level || indent > level.indent + 1) {
      const ordered = /\d/.test(mark[2]);
      const element = el(ordered ? "ol" : "ul", { start: ordered ? parseInt(mark[2], 10) : null });
      (level ? item : outer).append(element);
      level = { indent, element };
      levels.push(level);
    }
    item = el("li");
    level.element.append(item);
    spans(item, start + mark[0].length, end);
  }
  return { element: outer, open: item };
}

function table(text, block, spans) {
  const rows = block.lines.map(([start, end], n) => {
    const row = el("tr");
    const line = text.slice(start, end);
    for (const cell of line.matchAll(/[^|]+/g)) {
      if (!cell[0].trim() && (cell.index === 0 || cell.index + cell[0].length === line.length)) continue;
      const first = start + cell.index + (cell[0].length - cell[0].trimStart().length);
      const element = el(n ? "td" : "th");
      spans(element, first, first + cell[0].trim().length);
      row.append(element);
    }
    return row;
  });
  return el("div", { class: "wide", tabindex: "0" }, el("table", {}, rows));
}

function inline(text, parent, start, end, leaf, depth) {
  if (end - start > LONGEST || depth > DEEPEST) return leaf(parent, start, end);
  let plain = start;
  const flush = (to) => to > plain && leaf(parent, plain, to);
  for (let at = start; at < end; ) {
    const sign = text[at];
    let taken = 0;
    if (sign === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "") && at + 1 < end) {
      flush(at);
      plain = at + 1;
      taken = 2;
    } else if (sign === "`") taken = code(text, parent, at, end, leaf, () => flush(at));
    else if (sign === "*" || sign === "_" || sign === "~") taken = emphasis(text, parent, at, start, end, leaf, depth, () => flush(at));
    else if (sign === "[") taken = link(text, parent, at, end, leaf, () => flush(at));
    else if (sign === "h") taken = address(text, parent, at, end, leaf, () => flush(at));
    if (taken && sign !== "\\") plain = at + taken;
    at += taken || 1;
  }
  flush(end);
}

function code(text, parent, at, end, leaf, flush) {
  const marks = /^`+/.exec(text.slice(at, Math.min(end, at + 16)))[0];
  const stop = text.indexOf(marks, at + marks.length);
  if (stop < 0 || stop + marks.length > end || stop === at + marks.length) return 0;
  flush();
  const element = el("code");
  leaf(element, at + marks.length, stop);
  parent.append(element);
  return stop + marks.length - at;
}

function emphasis(text, parent, at, start, end, leaf, depth, flush) {
  const sign = text[at];
  const marks = text[at + 1] === sign ? sign + sign : sign;
  if (marks === "~" || /\s/.test(text[at + marks.length] ?? " ")) return 0;
  if (sign === "_" && at > start && /\w/.test(text[at - 1])) return 0;
  let stop = at;
  for (;;) {
    stop = text.indexOf(marks, stop + marks.length);
    if (stop < 0 || stop + marks.length > end) return 0;
    if (marks.length === 1 && text[stop + 1] === sign) { stop += 1; continue; }
    if (/\s/.test(text[stop - 1]) || stop === at + marks.length) continue;
    if (sign === "_" && stop + marks.length < end && /\w/.test(text[stop + marks.length])) continue;
    break;
  }
  flush();
  const element = el(sign === "~" ? "del" : marks.length === 2 ? "strong" : "em");
  inline(text, element, at + marks.length, stop, leaf, depth + 1);
  parent.append(element);
  return stop + marks.length - at;
}

function anchor(target) {
  return el("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" });
}

function link(text, parent, at, end, leaf, flush) {
  const found = LINK.exec(text.slice(at, Math.min(end, at + 3000)));
  if (!found || !SAFE.test(found[2])) return 0;
  flush();
  const element = anchor(found[2]);
  leaf(element, at + 1, at + 1 + found[1].length);
  parent.append(element);
  return found[0].length;
}

function address(text, parent, at, end, leaf, flush) {
  const found = ADDRESS.exec(text.slice(at, Math.min(end, at + 2100)));
  if (!found) return 0;
  const target = found[0].replace(/[.,;:!?]+$/, "");
  flush();
  const element = anchor(target);
  leaf(element, at, at + target.length);
  parent.append(element);
  return target.length;
}
