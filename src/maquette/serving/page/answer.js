// The text of an answer as it grows: pieces become spans once, finished blocks are never drawn again. A token
// under the pointer or the keyboard's cursor shows its probability and its alternatives; the card is one for all.

import { blocks, render, SPECIAL } from "./markdown.js";
import { button, el, speak } from "./dom.js";

const LONGEST_TAIL = 4000; // characters that are drawn again at a time
const LINE_MARK = 12; // characters within which a line shows what it is: a heading, an item
const PLAIN_BLOCK = 1000;
const LEVELS = [1, 2, 4, 7, 10]; // bits of surprise where a darker colour begins
export const SURPRISE = ["under 1 bit", "1", "2", "4", "7", "10 or more"];

export const bits = (logProbability) => -logProbability / Math.LN2;
const level = (logProbability) => LEVELS.filter((least) => bits(logProbability) >= least).length;
export const shown = (text) => (text === "" ? "(nothing)" : text.replaceAll("\n", "\u21b5").replaceAll(" ", "\u2423").replaceAll("\t", "\u21e5"));
const percent = (logProbability) => {
  const share = 100 * Math.exp(logProbability);
  return share >= 99.995 ? "100 %" : share >= 0.01 ? `${share.toPrecision(3)} %` : `${share.toExponential(1)} %`;
};
const UNWRITABLE = /^(bytes:.*|<\|[^|]*\|>|<\/?s>)$/s; // a part of a character, the end of a text

export class Answer {
  // branch(piece number, text): called when an alternative is chosen; none: alternatives are only shown.
  constructor(message, { markdown, branch }) {
    this.message = message;
    this.markdown = markdown;
    this.branch = branch;
    this.element = el("div", { class: markdown ? "text markdown" : "text plain" });
    this.starts = [];
    this.drawn = 0;
    this.settled = 0;
    this.tail = [];
    this.open = null;
    this.update();
    if (message.pieces.some(([, tokens]) => tokens.length) || message.about.role === "assistant") this.listen();
  }

  // Draw what has been added.
  update() {
    const { pieces, text } = this.message;
    for (let n = this.starts.length, at = n ? this.starts[n - 1] + pieces[n - 1][0].length : this.message.about.text.length; n < pieces.length; n += 1) {
      this.starts.push(at);
      at += pieces[n][0].length;
    }
    if (text.length === this.drawn) return;
    const added = text.slice(this.drawn);
    const amid = !this.markdown || this.drawn - text.lastIndexOf("\n", this.drawn - 1) > LINE_MARK;
    if (this.open && amid && !(this.markdown ? SPECIAL : /\n/).test(added)) this.leaf(this.open, this.drawn, text.length);
    else this.drawTail(text);
    this.drawn = text.length;
  }

  drawTail(text) {
    for (const element of this.tail) element.remove();
    this.tail = [];
    const found = this.markdown ? blocks(text, this.settled) : plainBlocks(text, this.settled);
    const leaf = (parent, start, end) => this.leaf(parent, start, end);
    found.forEach((block, n) => {
      const last = n === found.length - 1;
      const drawn = this.markdown ? render(text, block, leaf) : plain(block, leaf);
      this.element.append(drawn.element);
      this.open = drawn.open;
      if (!last) return;
      this.settled = block.start;
      this.tail = [drawn.element];
    });
    if (this.markdown && text.endsWith("\n")) this.open = null;
    if (text.length - this.settled > LONGEST_TAIL && this.markdown && found[found.length - 1]?.kind !== "code") {
      this.settled = text.length;
      this.tail = [];
      this.open = null;
    }
  }

  leaf(parent, start, end) {
    const { text, pieces, about } = this.message;
    if (start < about.text.length) {
      parent.append(text.slice(start, Math.min(end, about.text.length)));
      start = about.text.length;
    }
    for (let n = this.pieceAt(start); n < pieces.length && this.starts[n] < end; n += 1) {
      const from = Math.max(start, this.starts[n]);
      const to = Math.min(end, this.starts[n] + pieces[n][0].length);
      if (to <= from) continue;
      const tokens = pieces[n][1];
      const piece = text.slice(from, to);
      if (!tokens.length) parent.append(piece);
      else parent.append(el("span", { class: `token s${level(tokens.reduce((sum, one) => sum + one[1], 0))}`, data: { n } }, piece));
    }
  }

  // Number of the piece that holds a character.
  pieceAt(at) {
    let low = 0;
    let high = this.starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= at) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  listen() {
    const { element } = this;
    element.tabIndex = 0;
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", "Answer. Left and right arrow go from token to token, Enter shows alternatives.");
    element.addEventListener("pointerover", (event) => event.pointerType !== "touch" && event.target.dataset?.n && card.show(this, event.target));
    element.addEventListener("pointerleave", () => card.leave());
    element.addEventListener("click", (event) => event.target.dataset?.n && card.show(this, event.target, true));
    element.addEventListener("blur", () => this.mark(null));
    element.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    if (event.target !== this.element) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      const tokens = [...this.element.querySelectorAll(".token")];
      const at = tokens.indexOf(this.marked);
      const next = tokens[at < 0 ? (step > 0 ? 0 : tokens.length - 1) : at + step];
      if (next) {
        this.mark(next);
        card.show(this, next, true);
        const [token, logProbability] = this.message.pieces[next.dataset.n][1][0];
        speak(`${shown(token)}, ${percent(logProbability)}`);
      }
    } else if (event.key === "Enter" && this.marked) {
      card.show(this, this.marked, true);
      card.focus();
    } else if (event.key === "Escape") card.hide();
    else return;
    event.preventDefault();
  }

  mark(span) {
    this.marked?.classList.remove("marked");
    if (span) this.marked = span;
    if (span) span.classList.add("marked");
    if (span) span.scrollIntoView({ block: "nearest" });
  }
}

function plainBlocks(text, from) {
  const found = [];
  for (let start = from; start < text.length; ) {
    const stop = text.indexOf("\n", start + PLAIN_BLOCK);
    const end = stop < 0 ? text.length : stop + 1;
    found.push({ start, end });
    start = end;
  }
  return found;
}

function plain(block, leaf) {
  const element = el("div");
  leaf(element, block.start, block.end);
  return { element, open: element };
}

// The card of one token.
class Card {
  constructor() {
    this.element = el("div", { class: "card", role: "dialog", "aria-label": "Token", hidden: true });
    this.element.addEventListener("pointerenter", () => clearTimeout(this.leaving));
    this.element.addEventListener("pointerleave", () => this.leave());
    this.element.addEventListener("keydown", (event) => this.press(event));
    document.addEventListener("pointerdown", (event) => {
      if (!this.element.contains(event.target) && !event.target.dataset?.n) this.hide();
    });
    document.body.append(this.element);
  }

  show(answer, span, pinned = false) {
    clearTimeout(this.leaving);
    if (this.pinned && !pinned) return;
    this.pinned = pinned;
    this.answer = answer;
    const n = Number(span.dataset.n);
    const parts = answer.message.pieces[n][1].map(([token, logProbability, beside], k) => [
      el("p", { class: "chosen" }, el("code", {}, shown(token)), ` ${percent(logProbability)}, ${bits(logProbability).toFixed(1)} bits`),
      el("ol", { "aria-label": "Alternatives" }, beside.map(([other, p]) => this.alternative(answer, n, k, token, other, p))),
    ]);
    this.element.replaceChildren(...parts.flat());
    this.element.hidden = false;
    const place = span.getClientRects()[0];
    const own = this.element.getBoundingClientRect();
    const below = place.bottom + own.height + 8 < innerHeight;
    this.element.style.left = `${Math.max(4, Math.min(place.left, document.documentElement.clientWidth - own.width - 8)) + scrollX}px`;
    this.element.style.top = `${(below ? place.bottom + 4 : Math.max(4, place.top - own.height - 4)) + scrollY}px`;
  }

  alternative(answer, n, k, token, other, logProbability) {
    const possible = answer.branch && k === 0 && !UNWRITABLE.test(other) && other !== token;
    const bar = el("span", { class: "bar" });
    bar.style.width = `${100 * Math.exp(logProbability)}%`;
    const label = [bar, el("code", {}, shown(other)), el("span", {}, percent(logProbability))];
    const choose = () => {
      this.hide();
      answer.branch(n, other);
    };
    return el("li", {}, el("button", { type: "button", disabled: !possible, onclick: choose, title: possible ? "Go on from here with this token" : null }, label));
  }

  press(event) {
    const all = [...this.element.querySelectorAll("button:enabled")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) all[(all.indexOf(document.activeElement) + step + all.length) % all.length]?.focus();
    else if (event.key === "Escape") {
      this.hide();
      this.answer.element.focus();
    } else return;
    event.preventDefault();
  }

  focus() {
    this.element.querySelector("button:enabled")?.focus();
  }

  leave() {
    clearTimeout(this.leaving);
    if (!this.pinned) this.leaving = setTimeout(() => this.hide(), 250);
  }

  hide() {
    this.pinned = false;
    this.element.hidden = true;
  }
}

const card = new Card();
