// Sliders: the weights of a run's adapters, and a text that is written again as they move. The older request is
// left off; the seed stays, so that what changes is the adapters' doing.

import { Answer } from "./answer.js";
import { button, el, field } from "./dom.js";
import { answer, perFrame, request } from "./generation.js";
import { change, parameters, settings, weights } from "./settings.js";
import { Message } from "./store.js";

const WAIT = 200; // milliseconds after the last move
const TOKENS = 80;

export class Sliders {
  constructor(app) {
    this.app = app;
    this.prompt = el("textarea", { rows: 3, "aria-label": "Beginning of the text", oninput: () => this.soon() });
    this.prompt.value = settings.sliderPrompt ?? "The ";
    this.seed = el("input", { type: "number", min: 0, step: 1, value: "1", oninput: () => this.soon() });
    this.tokens = el("input", { type: "number", min: 1, step: 1, value: String(TOKENS), oninput: () => this.soon() });
    this.sliders = el("div", { class: "sliders" });
    this.output = el("div", { class: "output", "aria-live": "off" });
    this.error = el("p", { class: "error", role: "alert" });
    this.element = el("section", { class: "view", "aria-label": "Sliders" },
      el("h1", {}, "Sliders"), this.about = el("p", { class: "quiet" }), this.prompt,
      el("div", { class: "row fields" }, field("Seed", this.seed), field("Tokens", this.tokens), button("Write again", () => this.write())),
      this.sliders, this.error, this.output);
    this.runChanged();
  }

  // The chosen run, or the first one that has adapters.
  run() {
    const chosen = this.app.textRun();
    const has = (run) => run?.maquette.adapters?.length;
    return has(chosen) ? chosen : (this.app.runs.find(has) ?? chosen);
  }

  runChanged() {
    const run = this.run();
    const names = run?.maquette.adapters ?? [];
    this.about.textContent = names.length ? `Adapters of ${run.id}: 0 is the run as it is, 1 what was learnt, less than 0 its opposite. The weights hold in Write, too.`
      : "No served run has adapters: serve some with maquette serve RUN --adapter ADAPTED.";
    this.sliders.replaceChildren(...names.map((name) => this.slider(run, name)));
  }

  slider(run, name) {
    const key = `adapters/${run.id}`;
    const shown = el("output", {}, "");
    const set = (value) => {
      input.value = value;
      shown.textContent = Number(value).toFixed(2);
    };
    const input = el("input", {
      type: "range", min: -2, max: 2, step: 0.05, "aria-label": name,
      oninput: () => {
        change(key, { ...settings[key], [name]: Number(input.value) });
        set(input.value);
        this.soon();
      },
      ondblclick: () => { change(key, { ...settings[key], [name]: 0 }); set(0); this.soon(); },
    });
    set(settings[key]?.[name] ?? 0);
    return el("label", { class: "slider" }, el("span", {}, name), input, shown);
  }

  entered() {
    this.runChanged();
    if (!this.output.hasChildNodes()) this.soon();
  }

  left() {
    clearTimeout(this.waiting);
    this.running?.abort();
  }

  soon() {
    this.running?.abort();
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.write(), WAIT);
  }

  async write() {
    const run = this.run();
    const prompt = this.prompt.value;
    if (!run || !prompt || !this.seed.checkValidity() || !this.tokens.checkValidity()) return;
    change("sliderPrompt", prompt);
    this.running?.abort();
    const running = (this.running = new AbortController());
    const message = new Message({ id: "none", role: "assistant", text: "" });
    const view = new Answer(message, { markdown: false });
    const draw = perFrame(() => view.update());
    const body = { ...parameters(), seed: Number(this.seed.value), max_tokens: Number(this.tokens.value) };
    this.error.textContent = "";
    this.element.setAttribute("aria-busy", "true");
    try {
      const before = [new Message({ id: "none", role: "user", text: prompt })];
      const asked = await request(run, { kind: "completion" }, before, "", body, weights(run), running.signal);
      for await (const { piece } of answer(asked, running.signal)) {
        if (!piece) continue;
        if (view.element.parentNode !== this.output) this.output.replaceChildren(el("span", { class: "quiet plain" }, prompt), view.element);
        message.add(piece);
        draw();
      }
      view.update();
    } catch (error) {
      if (error.name !== "AbortError") this.error.textContent = error.message;
    }
    if (this.running === running) this.element.setAttribute("aria-busy", "false");
  }
}
