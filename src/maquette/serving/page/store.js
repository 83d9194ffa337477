// Conversations in localStorage. A conversation is a tree of messages; every message, and every 128 pieces of
// an answer, have a key of their own, so that two tabs never write over each other and a stream that grows
// writes only its end.
//
//   maquette/conversation/ID      {id, kind, title, created, changed, run, system, chosen}
//   maquette/message/ID/MESSAGE   {id, parent, role, text, state, ...}
//   maquette/pieces/MESSAGE/N     [[text, [[token, log-probability, [[token, log-probability]]]]]]

import { newId, notice, remembered } from "./dom.js";

const SEGMENT = 128;
const CONVERSATION = "maquette/conversation/";
const messageKey = (conversation, id) => `maquette/message/${conversation}/${id}`;
const piecesKey = (id, number) => `maquette/pieces/${id}/${number}`;

function keys(prefix) {
  return Object.keys(localStorage).filter((name) => name.startsWith(prefix));
}

function write(name, value, smaller) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    if (smaller) return write(name, smaller());
    notice("The browser's storage is full: what comes now is lost at a reload. Export and delete conversations.");
  }
}

export function conversations() {
  const found = keys(CONVERSATION).map((name) => remembered(localStorage, name, null));
  return found.filter(Boolean).sort((a, b) => b.changed - a.changed);
}

export class Conversation {
  constructor(about, messages = new Map()) {
    this.about = about;
    this.messages = messages;
  }

  static create(kind, run) {
    const now = Date.now();
    return new Conversation({ id: newId(), kind, title: "", created: now, changed: now, run, system: "", chosen: {} });
  }

  static open(id) {
    const about = remembered(localStorage, CONVERSATION + id, null);
    if (!about) return null;
    const found = keys(messageKey(id, "")).map((name) => remembered(localStorage, name, null)).filter(Boolean);
    found.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
    return new Conversation(about, new Map(found.map((one) => [one.id, new Message(one)])));
  }

  static remove(id) {
    for (const name of keys(messageKey(id, ""))) {
      for (const piece of keys(piecesKey(name.split("/").pop(), ""))) localStorage.removeItem(piece);
      localStorage.removeItem(name);
    }
    localStorage.removeItem(CONVERSATION + id);
  }

  save() {
    write(CONVERSATION + this.about.id, this.about);
  }

  add(parent, role, more = {}) {
    const message = new Message({ id: newId(), parent: parent?.id ?? null, role, created: Date.now(), text: "", ...more });
    this.messages.set(message.about.id, message);
    this.choose(message);
    this.keep(message);
    return message;
  }

  // Write a message, and of its pieces those that are new.
  keep(message) {
    write(messageKey(this.about.id, message.id), message.about);
    for (let n = Math.floor(message.kept / SEGMENT); n * SEGMENT < message.pieces.length; n += 1) {
      const pieces = message.pieces.slice(n * SEGMENT, (n + 1) * SEGMENT);
      write(piecesKey(message.id, n), pieces, () => pieces.map(([text]) => [text, []]));
    }
    message.kept = message.pieces.length;
    this.about.changed = Date.now();
    this.about.title ||= this.path().find((one) => one.text.trim())?.text.trim().slice(0, 60) ?? "";
    this.save();
  }

  children(id) {
    return [...this.messages.values()].filter((one) => one.about.parent === id);
  }

  siblings(message) {
    return this.children(message.about.parent);
  }

  choose(message) {
    this.about.chosen[message.about.parent ?? ""] = message.id;
  }

  parent(message) {
    return this.messages.get(message.about.parent) ?? null;
  }

  // The messages that are shown: from the first one down, of several the chosen one, else the newest.
  path() {
    const path = [];
    for (let id = null; ; ) {
      const among = this.children(id);
      if (!among.length) return path;
      const next = among.find((one) => one.id === this.about.chosen[id ?? ""]) ?? among[among.length - 1];
      path.push(next);
      id = next.id;
    }
  }

  before(message) {
    const path = [];
    for (let one = this.parent(message); one; one = this.parent(one)) path.unshift(one);
    return path;
  }

  toText() {
    if (this.about.kind === "completion") return this.path().map((one) => one.text).join("");
    const system = this.about.system ? [`system: ${this.about.system}`] : [];
    return [...system, ...this.path().map((one) => `${one.about.role}: ${one.text}`)].join("\n\n") + "\n";
  }

  toJSON() {
    return { ...this.about, messages: [...this.messages.values()].map((one) => ({ ...one.about, text: one.text, pieces: one.pieces })) };
  }
}

// A message; its text is in `about.text` where a person wrote it, in pieces where a model did.
export class Message {
  constructor(about) {
    this.about = about;
    this.id = about.id;
    this.pieces = [];
    for (let n = 0; ; n += 1) {
      const found = remembered(localStorage, piecesKey(about.id, n), null);
      if (!found) break;
      this.pieces.push(...found);
    }
    this.kept = this.pieces.length;
    this.text = about.text + this.pieces.map(([text]) => text).join("");
  }

  add(piece) {
    this.pieces.push(piece);
    this.text += piece[0];
  }
}
