// Where is it from: the spans of a text that stand word for word in the training text, with the documents that
// hold them; the share that is copied; whether the text was seen, by the portrait of the training text.

import { post } from "./api.js";
import { button, el, number } from "./dom.js";

const percent = (share) => `${number(100 * share, 3)} %`;

export class Origin {
  constructor(app) {
    this.app = app;
    this.input = el("textarea", { rows: 6, "aria-label": "Text to look for", placeholder: "A text: an answer, or one of your own" });
    this.result = el("div", { class: "result", "aria-live": "polite" });
    this.element = el("section", { class: "view", "aria-label": "Where from" },
      el("h1", {}, "Where is it from?"),
      el("p", { class: "quiet" }, "Looks for a text in what the chosen run was trained on. Nothing is kept of it."),
      this.input,
      el("div", { class: "row actions" }, button("Find its passages", () => this.trace(), { class: "primary" }), button("Was it seen?", () => this.portrait())),
      this.result);
  }

  look(text) {
    this.input.value = text;
    this.trace();
  }

  trace() {
    return this.ask("trace", (found) => this.passages(found));
  }

  portrait() {
    return this.ask("portrait", (found) => this.membership(found, this.input.value));
  }

  async ask(path, draw) {
    const run = this.app.textRun();
    const text = this.input.value;
    if (!run || !text) return;
    this.asked?.abort();
    this.asked = new AbortController();
    const { signal } = this.asked;
    this.result.replaceChildren(el("p", { class: "quiet" }, "looking ..."));
    try {
      const found = await post(path, { model: run.id, text }, signal);
      this.result.replaceChildren(...draw(found));
    } catch (error) {
      if (error.name !== "AbortError") this.result.replaceChildren(el("p", { class: "error", role: "alert" }, error.message));
    }
  }

  passages(found) {
    const characters = Array.from(found.text);
    const documents = el("div", { class: "documents" });
    const show = (n) => {
      for (const mark of text.querySelectorAll(".mark")) mark.setAttribute("aria-pressed", String(mark.dataset.spans.split(" ").includes(String(n))));
      documents.replaceChildren(...this.documents(found.spans[n], characters));
    };
    const text = el("div", { class: "text plain source" }, pieces(characters, found.spans, show));
    if (found.spans.length) show(0);
    else documents.append(el("p", { class: "quiet" }, `No run of ${found.least} tokens or more stands in the training text.`));
    return [
      el("p", { class: "figure" }, el("strong", {}, percent(found.verbatim)), " of the characters stand word for word in the training text, in runs of 50 bytes or more. ",
        el("span", { class: "quiet" }, `${found.spans.length} of ${found.maximal} passages of at least ${found.least} tokens are marked, the rarest ones.`)),
      el("div", { class: "beside" }, text, documents),
    ];
  }

  documents(span, characters) {
    const times = span.count === 1 ? "once" : `${span.count.toLocaleString("en")} times`;
    return [
      el("h2", {}, `${span.tokens} tokens, ${times} in the training text`),
      ...span.documents.map((document) => el("figure", {},
        el("figcaption", {}, document.title ?? document.source,
          el("span", { class: "quiet" }, " ", [document.component, document.title && document.source, document.date, document.licence, `at character ${document.offset.toLocaleString("en")}`].filter(Boolean).join(" \u00b7 "))),
        el("blockquote", { class: "plain" }, document.before, el("b", {}, characters.slice(document.start, document.end).join("")), document.after))),
    ];
  }

  membership(found, text) {
    const characters = Array.from(text);
    const strong = found.spans.filter((span) => span.strong);
    const verdict = found.too_short ? `Too short to tell: from ${found.sure_from} bytes on it can be said.`
      : strong.length ? `${percent(found.coverage)} of the characters were seen.` : "Not seen.";
    return [
      el("p", { class: "figure" }, el("strong", {}, verdict), " ",
        el("span", { class: "quiet" }, `An unseen text of this length shows a mark by accident with a probability of at most ${number(found.bound, 2)}.`)),
      el("div", { class: "text plain source" }, pieces(characters, strong, null)),
    ];
  }
}

// A text with its spans marked; where spans overlap, a part belongs to several.
function pieces(characters, spans, show) {
  const edges = [...new Set([0, characters.length, ...spans.flatMap((span) => [span.start, span.end])])].sort((a, b) => a - b);
  return edges.slice(0, -1).map((start, k) => {
    const part = characters.slice(start, edges[k + 1]).join("");
    const of = spans.flatMap((span, n) => (span.start <= start && start < span.end ? [n] : []));
    if (!of.length) return document.createTextNode(part);
    if (!show) return el("mark", {}, part);
    const press = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      show(of[0]);
    };
    return el("span", { role: "button", tabindex: "0", class: "mark", data: { spans: of.join(" ") }, "aria-pressed": "false", onclick: () => show(of[0]), onkeydown: press }, part);
  });
}
