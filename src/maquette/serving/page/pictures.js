// Pictures: a prompt becomes a grid; a picture can be painted over and filled, continued on a side, varied, and
// led towards another. Seeds are shown and can be kept; beside each grid stands what solver and steps cost.

import { post } from "./api.js";
import { button, el, field, number } from "./dom.js";
import { Mask } from "./mask.js";

const SOLVERS = ["ddpm", "ddim", "dpm2m", "heun", "euler"];

export class Pictures {
  constructor(app) {
    this.app = app;
    const entry = (name, limits, placeholder = "-") => el("input", { type: "number", name, placeholder, ...limits });
    this.prompt = el("textarea", { rows: 2, "aria-label": "Prompt", placeholder: "A caption, such as a large red circle" });
    this.inputs = {
      n: entry("n", { min: 1, max: 10, step: 1, value: "4" }), seed: entry("seed", { min: 0, step: 1 }),
      steps: entry("steps", { min: 1, max: 250, step: 1 }), guidance: entry("guidance", { min: -100, max: 100, step: "any" }),
    };
    this.solver = el("select", { name: "solver" }, ["", ...SOLVERS].map((one) => el("option", { value: one }, one || "-")));
    this.others = { prior: el("select", { name: "prior" }), upsample: el("select", { name: "upsample" }) };
    this.grids = el("div", { class: "grids" });
    this.error = el("p", { class: "error", role: "alert" });
    this.status = el("span", { class: "quiet", role: "status" });
    this.stop = button("Stop", () => this.running?.abort(), { hidden: true });
    this.editor = el("div", { class: "editor", hidden: true });
    this.file = el("input", { type: "file", accept: "image/*", "aria-label": "Picture of your own", onchange: () => this.opened() });
    this.about = el("p", { class: "quiet" });
    this.element = el("section", { class: "view", "aria-label": "Pictures" }, el("h1", {}, "Pictures"), this.about,
      el("form", { onsubmit: (event) => { event.preventDefault(); this.generate(); } }, this.prompt,
        el("div", { class: "row fields" }, field("Pictures", this.inputs.n), field("Seed", this.inputs.seed, "Empty: another one each time"), field("Steps", this.inputs.steps),
          field("Solver", this.solver), field("Guidance", this.inputs.guidance), field("Prior", this.others.prior), field("Enlarge", this.others.upsample)),
        el("div", { class: "row actions" }, el("button", { class: "primary" }, "Make"), this.stop, el("label", { class: "field" }, el("span", {}, "or open"), this.file), this.status)),
      this.error, this.editor, this.grids);
    this.runChanged();
  }

  run() {
    return this.app.run("pictures");
  }

  runChanged() {
    const run = this.run();
    this.about.textContent = run ? `${run.id}: ${run.maquette.image_size} x ${run.maquette.image_size} pixels, ${run.maquette.task}${run.maquette.condition ? `, conditioned on ${run.maquette.condition}` : ""}.`
      : "No picture run is served: maquette serve RUN with one.";
    const options = (kind, test) => [el("option", { value: "" }, "-"), ...this.app.runs.filter((one) => one.maquette.kind === kind && test(one)).map((one) => el("option", { value: one.id }, one.id))];
    this.others.prior.replaceChildren(...options("prior", () => true));
    this.others.upsample.replaceChildren(...options("pictures", (one) => one.maquette.task === "upsample"));
  }

  // The fields that all requests have; those that are empty are not sent.
  fields() {
    const found = { model: this.run()?.id, prompt: this.prompt.value };
    for (const [name, input] of Object.entries(this.inputs)) if (input.value !== "") found[name] = Number(input.value);
    found.solver = this.solver.value;
    for (const [name, select] of Object.entries(this.others)) found[name] = select.value;
    return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== "" && value !== undefined));
  }

  generate() {
    return this.make("v1/images/generations", this.fields(), this.prompt.value || "pictures");
  }

  form(more) {
    const form = new FormData();
    for (const [name, value] of Object.entries({ ...this.fields(), ...more })) {
      if (value === null) continue;
      if (value instanceof Blob) form.append(name, value, `${name}.png`);
      else form.append(name, String(value));
    }
    return form;
  }

  async make(path, body, title) {
    if (!this.run()) return;
    this.running?.abort();
    const running = (this.running = new AbortController());
    this.error.textContent = "";
    this.stop.hidden = false;
    const begun = performance.now();
    const clock = setInterval(() => (this.status.textContent = `${((performance.now() - begun) / 1000).toFixed(0)} s ...`), 500);
    try {
      const made = await post(path, body, running.signal);
      this.grids.prepend(this.grid(made, title));
    } catch (error) {
      if (error.name !== "AbortError") this.error.textContent = error.message;
    } finally {
      clearInterval(clock);
      if (this.running === running) this.stop.hidden = true;
      if (this.running === running) this.status.textContent = "";
    }
  }

  grid(made, title) {
    const cost = `${made.size}, seed ${made.seed}, ${made.evaluations} evaluations of the network for each: ${number(made.milliseconds / 1000, 3)} s`;
    return el("figure", { class: "grid" }, el("figcaption", {}, title, el("span", { class: "quiet" }, ` ${cost} `), button("Keep this seed", () => (this.inputs.seed.value = made.seed), { class: "quiet" }),
      made.notes.map((note) => el("p", { class: "quiet" }, note))),
      el("div", { class: "row" }, made.data.map((one, n) => {
        const address = `data:image/png;base64,${one.b64_json}`;
        return el("button", { type: "button", class: "picture", "aria-label": `Picture ${n + 1} of ${title}`, onclick: () => this.edit(address) }, el("img", { src: address, alt: "" }));
      })));
  }

  opened() {
    const [file] = this.file.files;
    if (file) this.edit(URL.createObjectURL(file));
  }

  async edit(address) {
    const image = new Image();
    image.src = address;
    try {
      await image.decode();
    } catch {
      this.error.textContent = "That is no picture that the browser can read.";
      return;
    }
    const mask = new Mask(image);
    const side = el("select", { "aria-label": "Side" }, ["right", "left", "top", "bottom"].map((one) => el("option", { value: one }, one)));
    const pixels = el("input", { type: "number", min: 1, max: 1024, step: 1, value: String(Math.max(1, Math.round(image.naturalWidth / 2))), "aria-label": "Pixels" });
    const picture = () => blobOf(mask.picture);
    const fill = async () => this.make("v1/images/edits", this.form({ image: await picture(), mask: await blobOf(mask.holes()) }), "filled");
    const extend = async () => this.make("v1/images/edits", this.form({ image: await picture(), outpaint: `${side.value}=${pixels.value}` }), `continued to the ${side.value}`);
    const vary = async () => this.make("v1/images/variations", this.form({ image: await picture(), prompt: null }), "variations");
    const toward = async () => this.make("v1/images/variations", this.form({ image: this.from, toward: await picture(), prompt: null }), "from one to the other");
    const start = async () => { this.from = await picture(); go.disabled = false; };
    const go = button("to this one", toward, { disabled: !this.from });
    this.editor.replaceChildren(
      mask.element,
      el("div", { class: "steps" },
        el("p", { class: "quiet" }, "Paint over what is to be made anew. With the keyboard: arrows move the brush, the space bar paints."),
        el("div", { class: "row" }, field("Brush", mask.size), button("Clear", () => mask.clear()), button("Fill", fill, { class: "primary" })),
        el("div", { class: "row" }, button("Continue to the", extend), side, pixels, "pixels"),
        el("div", { class: "row" }, button("Vary", vary), button("Interpolate from here", start), go),
        el("div", { class: "row" }, button("Close", () => (this.editor.hidden = true)))));
    this.editor.hidden = false;
    this.editor.scrollIntoView({ block: "nearest" });
    mask.canvas.focus();
  }
}

const blobOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
