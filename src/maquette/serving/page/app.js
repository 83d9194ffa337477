// The page: its views by the address's hash, the served runs, the key, light and dark.

import { get, key, setKey } from "./api.js";
import { button, el, notice } from "./dom.js";
import { Origin } from "./origin.js";
import { Pictures } from "./pictures.js";
import { Runs } from "./runs.js";
import { Sliders } from "./sliders.js";
import { Systems } from "./systems.js";
import { Write } from "./write.js";

const VIEWS = [["write", "Write", Write], ["origin", "Where from", Origin], ["sliders", "Sliders", Sliders],
  ["pictures", "Pictures", Pictures], ["runs", "Runs", Runs], ["systems", "Systems", Systems]];
const RUN = "maquette/run";
const THEME = "maquette/theme";

class App {
  constructor() {
    this.runs = [];
    this.made = {};
    this.select = el("select", { "aria-label": "Run", onchange: () => this.choose(this.select.value) });
    this.theme = button("", () => this.turnTheme(), { class: "quiet" });
    this.keyButton = button("Key", () => this.askKey(), { class: "quiet", title: "The key of an opened server" });
    document.getElementById("tools").append(this.select, this.keyButton, this.theme);
    this.setTheme(localStorage.getItem(THEME) ?? "");
    addEventListener("hashchange", () => this.show());
    this.load();
  }

  async load() {
    try {
      this.runs = (await get("v1/models")).data;
      notice("");
    } catch (error) {
      this.runs = [];
      notice(error.message);
    }
    const kept = sessionStorage.getItem(RUN) ?? localStorage.getItem(RUN);
    this.select.replaceChildren(...this.runs.map((run) => el("option", { value: run.id }, run.id)));
    if (this.runs.some((run) => run.id === kept)) this.select.value = kept;
    for (const view of Object.values(this.made)) view.runChanged?.();
    this.show();
  }

  // The chosen run, or the first one of a kind where the chosen one is of another.
  run(kind) {
    const chosen = this.runs.find((run) => run.id === this.select.value);
    return chosen?.maquette.kind === kind ? chosen : this.runs.find((run) => run.maquette.kind === kind);
  }

  textRun() {
    return this.run("text");
  }

  choose(id) {
    sessionStorage.setItem(RUN, id);
    localStorage.setItem(RUN, id);
    for (const view of Object.values(this.made)) view.runChanged?.();
  }

  show() {
    const name = VIEWS.find(([one]) => `#${one}` === location.hash)?.[0] ?? "write";
    document.getElementById("views").replaceChildren(...VIEWS.map(([one, title]) =>
      el("a", { href: `#${one}`, "aria-current": one === name ? "page" : null }, title)));
    const view = this.view(name);
    const main = document.getElementById("main");
    if (main.firstChild !== view.element) {
      this.shown?.left?.();
      main.replaceChildren(view.element);
      view.entered?.();
      this.shown = view;
    }
    document.title = `${VIEWS.find(([one]) => one === name)[1]} - Maquette`;
  }

  view(name) {
    return (this.made[name] ??= new (VIEWS.find(([one]) => one === name)[2])(this));
  }

  trace(text) {
    this.view("origin").look(text);
    location.hash = "origin";
  }

  setTheme(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    this.theme.textContent = { light: "Light", dark: "Dark" }[theme] ?? "Auto";
    this.theme.setAttribute("aria-label", `Colours: ${this.theme.textContent}`);
  }

  turnTheme() {
    const next = { "": "light", light: "dark", dark: "" }[localStorage.getItem(THEME) ?? ""];
    localStorage.setItem(THEME, next);
    this.setTheme(next);
  }

  askKey() {
    const input = el("input", { type: "password", value: key(), autocomplete: "off", "aria-label": "Key" });
    const close = () => dialog.close();
    const dialog = el("dialog", { "aria-label": "Key", onclose: () => dialog.remove() },
      el("form", { onsubmit: (event) => { event.preventDefault(); setKey(input.value.trim()); close(); this.load(); } },
        el("p", {}, "A server that is open to others wants a key. It is kept in this tab until it is closed."),
        input, el("div", { class: "row" }, button("Cancel", close), el("button", { class: "primary" }, "Use"))));
    document.body.append(dialog);
    dialog.showModal();
  }
}

new App();
