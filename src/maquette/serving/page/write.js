// Write: conversations and completions. The thread is the tree's chosen path; an answer that is being written
// grows piece by piece, is kept four times a second and when the page is left, and can be gone on with.

import { Answer, bits, SURPRISE } from "./answer.js";
import { button, el, field, notice, number, save, speak } from "./dom.js";
import { answer, perFrame, request, showsMarkdown } from "./generation.js";
import { changed, parameters, settings, settingsForm, weights } from "./settings.js";
import { Conversation, conversations } from "./store.js";

const KEEP = 250; // milliseconds
const SHOWN = "maquette/shown"; // the conversation of this tab

export class Write {
  constructor(app) {
    this.app = app;
    this.conversation = Conversation.open(sessionStorage.getItem(SHOWN) ?? "") ?? this.fresh();
    sessionStorage.setItem(SHOWN, this.conversation.about.id);
    this.list = el("ul", { class: "conversations" });
    this.thread = el("div", { class: "thread", id: "thread" });
    this.system = el("textarea", { rows: 2, placeholder: "None", oninput: () => this.setSystem() });
    this.input = el("textarea", { rows: 3, "aria-label": "Message", onkeydown: (event) => this.press(event) });
    this.send = button("Send", () => this.submit(), { class: "primary" });
    this.stop = button("Stop", () => this.running?.abort(), { class: "primary", hidden: true });
    this.kind = el("select", { "aria-label": "Kind of conversation", onchange: () => this.start(this.kind.value) },
      el("option", { value: "chat" }, "Chat"), el("option", { value: "completion" }, "Completion"));
    this.element = this.layout();
    changed((name) => this.settingChanged(name));
    addEventListener("storage", (event) => this.elsewhere(event));
    addEventListener("pagehide", () => this.pageHidden());
    addEventListener("pageshow", () => (this.leaving = false));
    this.render();
  }

  layout() {
    const toggle = (side) => button(side === "left" ? "Conversations" : "Parameters", () => this.element.classList.toggle(`show-${side}`), { class: "only-narrow" });
    const exports = el("div", { class: "row" },
      button("Export text", () => save(`${this.fileName()}.txt`, "text/plain", this.conversation.toText())),
      button("Export JSON", () => save(`${this.fileName()}.json`, "application/json", JSON.stringify(this.conversation, null, 1))));
    this.legend = el("p", { class: "legend", "aria-label": "Surprise of a token, in bits" }, "Surprise in bits: ",
      SURPRISE.map((text, n) => el("span", { class: `s${n}` }, text)));
    return el("section", { class: "write", "aria-label": "Write" },
      el("aside", { class: "left", "aria-label": "Conversations" },
        el("div", { class: "row" }, button("New", () => this.start(this.conversation.about.kind)), this.kind), this.list, exports),
      el("div", { class: "middle" },
        el("div", { class: "row only-narrow" }, toggle("left"), toggle("right")),
        this.legend, this.thread,
        el("form", { class: "composer", onsubmit: (event) => { event.preventDefault(); this.submit(); } }, this.input,
          el("div", { class: "row" }, this.hint = el("span", { class: "quiet" }), this.stop, this.send))),
      el("aside", { class: "right", "aria-label": "Parameters" }, settingsForm(),
        this.systemField = field("System message", this.system, "Stands before the first message")));
  }

  fresh(kind) {
    const run = this.app.textRun();
    return Conversation.create(kind ?? (run && !run.maquette.chat ? "completion" : "chat"), run?.id ?? "");
  }

  start(kind) {
    this.show(this.fresh(kind));
    this.input.focus();
  }

  show(conversation) {
    this.running?.abort();
    this.conversation = conversation;
    sessionStorage.setItem(SHOWN, conversation.about.id);
    this.element.classList.remove("show-left");
    this.render();
  }

  runChanged() {
    if (!this.conversation.messages.size) this.show(this.fresh());
  }

  render() {
    const { kind, system } = this.conversation.about;
    const chat = kind === "chat";
    this.kind.value = kind;
    this.system.value = system;
    this.systemField.hidden = !chat;
    this.input.placeholder = chat ? "Write a message" : "Write the beginning of a text";
    this.hint.textContent = chat ? "Enter sends, Shift+Enter begins a line" : "Ctrl+Enter goes on from the text";
    this.renderList();
    this.renderThread();
  }

  renderList() {
    const all = conversations();
    this.list.replaceChildren(...all.map((about) => {
      const current = about.id === this.conversation.about.id;
      const title = about.title || "(empty)";
      return el("li", { class: current ? "current" : null },
        button(title, () => this.show(Conversation.open(about.id) ?? this.fresh()), { class: "title", "aria-current": current ? "true" : null }),
        button("\u00d7", () => this.remove(about.id), { class: "quiet", "aria-label": `Delete ${title}` }));
    }));
    if (!all.length) this.list.append(el("li", { class: "quiet" }, "Conversations are kept in this browser."));
  }

  remove(id) {
    if (id === this.conversation.about.id) this.running?.abort();
    Conversation.remove(id);
    if (id === this.conversation.about.id) this.show(this.fresh());
    else this.renderList();
  }

  renderThread() {
    const surprise = settings.surprise ?? true;
    this.thread.classList.toggle("surprise", surprise);
    this.legend.hidden = !surprise;
    this.views = new Map();
    const path = this.conversation.path();
    this.thread.replaceChildren(...path.map((message, n) => this.draw(message, n === path.length - 1)));
    if (!path.length) this.thread.append(this.welcome());
  }

  welcome() {
    const run = this.app.textRun();
    const lines = !run ? ["No run of text is served: maquette serve RUN."]
      : [`${run.id}: ${number(run.maquette.parameters / 1e6, 3)} million parameters, a context of ${run.maquette.context} tokens.`,
        this.conversation.about.kind === "chat" && !run.maquette.chat ? "This run has not learnt to answer: Completion fits it better." : "",
        "Point at a token of an answer, or walk there with the arrow keys, for its probability and what else might have stood there."];
    return el("div", { class: "welcome quiet" }, lines.filter(Boolean).map((line) => el("p", {}, line)));
  }

  draw(message, last) {
    const mine = message.about.role === "user";
    const chat = this.conversation.about.kind === "chat";
    const view = new Answer(message, { markdown: showsMarkdown(this.conversation.about.kind) && !mine, branch: (n, text) => this.branch(message, n, text) });
    const foot = el("footer");
    const name = mine ? (chat ? "You" : "Text") : (message.about.run ?? "");
    const element = el("article", { class: mine ? "mine" : "theirs", data: { id: message.id }, "aria-label": name },
      el("h3", { class: "who" }, name), view.element, foot);
    this.views.set(message, { view, foot, element });
    this.drawFoot(message, last);
    return element;
  }

  drawFoot(message, last = true) {
    const { foot } = this.views.get(message);
    const { about } = message;
    if (message === this.writing) return foot.replaceChildren(el("span", { class: "quiet" }, "writing ..."));
    const siblings = this.conversation.siblings(message);
    const at = siblings.indexOf(message);
    const turn = (step, sign, label) => button(sign, () => this.turn(siblings[at + step]), { "aria-label": label, disabled: !siblings[at + step] });
    const theirs = about.role === "assistant";
    const parts = [
      siblings.length > 1 && el("span", { class: "branches" }, turn(-1, "\u2039", "Earlier branch"), `${at + 1} / ${siblings.length}`, turn(1, "\u203a", "Later branch")),
      theirs && last && button("Continue", () => this.goOn(message)),
      theirs && button("Regenerate", () => this.regenerate(message)),
      button("Edit", () => this.edit(message)),
      button("Copy", () => this.copy(message)),
      theirs && button("Where from", () => this.app.trace(message.text)),
      el("span", { class: "quiet facts" }, this.facts(message)),
    ];
    foot.replaceChildren(...parts.filter(Boolean));
    if (about.error) foot.prepend(el("p", { class: "error", role: "alert" }, about.error));
  }

  facts(message) {
    const { about, pieces } = message;
    if (about.role !== "assistant") return "";
    const tokens = pieces.flatMap(([, said]) => said);
    const surprise = tokens.reduce((sum, [, p]) => sum + bits(p), 0) / tokens.length;
    const states = { writing: "broken off", stopped: "stopped", length: "as long as was asked for" };
    return [
      tokens.length && `${tokens.length} tokens`, tokens.length && `${number(surprise, 3)} bits a token`,
      about.seconds > 0 && about.count && `${number(about.count / about.seconds, 3)} tokens/s`,
      about.seed !== undefined && `seed ${about.seed}`, states[about.state],
    ].filter(Boolean).join(" \u00b7 ");
  }

  press(event) {
    if (event.key !== "Enter" || event.isComposing) return;
    const chat = this.conversation.about.kind === "chat";
    if (chat ? event.shiftKey : !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.submit();
  }

  submit() {
    const text = this.input.value;
    if (this.running || (!text.trim() && !this.conversation.messages.size)) return;
    const path = this.conversation.path();
    const last = path[path.length - 1];
    const parent = text ? this.conversation.add(last, "user", { text }) : last;
    this.input.value = "";
    if (!text && parent.about.role === "assistant") return this.goOn(parent);
    this.generate(this.answerTo(parent));
  }

  answerTo(parent, more = {}) {
    return this.conversation.add(parent, "assistant", { run: this.app.textRun()?.id, ...more });
  }

  goOn(message) {
    this.generate(message);
  }

  regenerate(message) {
    if (this.running) return;
    const again = this.conversation.siblings(message).length;
    this.generate(this.answerTo(this.conversation.parent(message)), again);
  }

  // A new answer that is the same up to a piece, has another token there, and goes on from it.
  branch(message, n, text) {
    this.running?.abort();
    const other = this.answerTo(this.conversation.parent(message), { text: message.about.text });
    for (const piece of message.pieces.slice(0, n)) other.add(piece);
    const [, tokens] = message.pieces[n];
    const chosen = tokens[0][2].find(([token]) => token === text);
    const begins = !other.text && this.conversation.about.kind === "chat"; // the template has the space before an answer
    other.add([begins ? text.trimStart() : text, [[text, chosen[1], tokens[0][2]]]]);
    this.conversation.keep(other);
    this.generate(other);
  }

  edit(message) {
    if (this.running) return;
    const { element } = this.views.get(message);
    const area = el("textarea", { rows: Math.min(16, message.text.split("\n").length + 1), value: message.text, "aria-label": "Edit" });
    const done = () => {
      const { role, run } = message.about;
      const text = area.value;
      const other = this.conversation.add(this.conversation.parent(message), role, { text, run, state: role === "assistant" ? "edited" : undefined });
      this.renderThread();
      this.renderList();
      if (role === "user") this.generate(this.answerTo(other));
    };
    element.replaceChildren(el("h3", { class: "who" }, "Edit"), area, el("div", { class: "row" },
      button(message.about.role === "user" ? "Send as a new branch" : "Keep as a new branch", done, { class: "primary" }), button("Cancel", () => this.renderThread())));
    area.focus();
  }

  async copy(message) {
    try {
      await navigator.clipboard.writeText(message.text);
      speak("copied");
    } catch {
      notice("The browser does not let this page copy.");
    }
  }

  turn(message) {
    this.conversation.choose(message);
    this.conversation.save();
    this.renderThread();
  }

  async generate(message, again = 0) {
    if (this.running) await this.ended;
    const run = this.app.textRun();
    if (!run) return notice("No run of text is served.");
    this.running = new AbortController();
    const { signal } = this.running;
    let over;
    this.ended = new Promise((resolve) => (over = resolve));
    const { conversation } = this;
    const body = parameters();
    if (again && settings.seed !== undefined) body.seed += again;
    Object.assign(message.about, { state: "writing", seed: body.seed, run: run.id, error: undefined });
    this.writing = message;
    conversation.keep(message);
    this.renderThread();
    this.renderList();
    this.busy(true);
    this.thread.scrollTop = this.thread.scrollHeight;
    const draw = perFrame(() => this.grown(message));
    let first = 0;
    let count = 0;
    this.keepNow = () => conversation.keep(message);
    const keeping = setInterval(this.keepNow, KEEP);
    try {
      const asked = await request(run, conversation.about, conversation.before(message), message.text, body, weights(run), signal);
      for await (const { piece, finish } of answer(asked, signal)) {
        if (!piece) { message.about.state = finish; continue; }
        message.add(piece);
        first ||= performance.now();
        count += piece[1].length;
        draw();
      }
    } catch (error) {
      if (this.leaving) return; // what arrived is kept, and the answer is marked as broken off
      message.about.state = "stopped";
      if (error.name !== "AbortError") message.about.error = error.message;
    } finally {
      clearInterval(keeping);
      Object.assign(message.about, { count: Math.max(0, count - 1), seconds: first ? (performance.now() - first) / 1000 : 0 });
      this.running = this.writing = null;
      conversation.keep(message);
      this.busy(false);
      over();
    }
    if (this.conversation !== conversation || !this.views.has(message)) return;
    this.grown(message);
    this.drawFoot(message);
    this.renderList();
    speak(message.about.error ?? "The answer is finished.");
  }

  pageHidden() {
    if (!this.running) return;
    this.leaving = true;
    this.keepNow();
    this.running.abort();
  }

  // Draw what arrived, and stay at the end where the reader is.
  grown(message) {
    const shown = this.views.get(message);
    if (!shown) return;
    const { thread } = this;
    const atEnd = thread.scrollHeight - thread.scrollTop - thread.clientHeight < 80;
    shown.view.update();
    if (atEnd) thread.scrollTop = thread.scrollHeight;
  }

  busy(now) {
    this.stop.hidden = !now;
    this.send.hidden = now;
    this.thread.setAttribute("aria-busy", String(now));
  }

  setSystem() {
    this.conversation.about.system = this.system.value;
    if (this.conversation.messages.size) this.conversation.save();
  }

  settingChanged(name) {
    if (name === "surprise") {
      this.thread.classList.toggle("surprise", settings.surprise);
      this.legend.hidden = !settings.surprise;
    } else if (name === "markdown") this.renderThread();
  }

  // Another tab has written.
  elsewhere(event) {
    if (!event.key?.startsWith("maquette/")) return;
    if (event.key.startsWith("maquette/conversation/")) this.renderList();
    const { id } = this.conversation.about;
    if (!this.running && event.key === `maquette/conversation/${id}` && !this.element.querySelector("article textarea")) {
      const now = Conversation.open(id);
      if (now) now.about.chosen = { ...now.about.chosen, ...this.conversation.about.chosen };
      if (now) this.conversation = now;
      if (now) this.renderThread();
    }
  }

  fileName() {
    return (this.conversation.about.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  }
}
