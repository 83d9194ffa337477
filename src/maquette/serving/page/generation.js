// A streamed answer as pieces: [text, [[token, log-probability, alternatives]]]. Tokens whose text is not settled
// yet (a part of a character, the start of a stop string) wait for the piece that settles it.

import { post, stream } from "./api.js";
import { settings } from "./settings.js";

const ALTERNATIVES = 5;
const pair = (one) => [one.token, one.logprob, (one.top_logprobs ?? []).map((other) => [other.token, other.logprob])];

// The request of a message: {path, body}. before: the messages before it.
export async function request(run, conversation, before, begun, parameters, adapters, signal) {
  const common = { model: run.id, ...parameters, ...(Object.keys(adapters).length ? { adapters } : {}) };
  if (conversation.kind === "chat") {
    const messages = before.map((one) => ({ role: one.about.role, content: one.text }));
    if (conversation.system) messages.unshift({ role: "system", content: conversation.system });
    if (begun) messages.push({ role: "assistant", content: begun });
    return { path: "v1/chat/completions", body: { ...common, messages, logprobs: true, top_logprobs: ALTERNATIVES } };
  }
  const prompt = before.map((one) => one.text).join("") + begun;
  const { count, max_model_len } = await post("tokenize", { model: run.id, prompt }, signal);
  const room = max_model_len - count;
  const most = Math.min(parameters.max_tokens ?? room, Math.max(1, room));
  return { path: "v1/completions", body: { ...common, prompt, max_tokens: most, logprobs: ALTERNATIVES } };
}

// Gives {piece} and at the end {finish}. An answer that may be longer than the context has room for is asked
// for again without its limit: then it ends where the context does.
export async function* answer({ path, body }, signal) {
  try {
    yield* written(path, body, signal);
  } catch (error) {
    if (error.code !== "context_length_exceeded" || !body.messages || !body.max_tokens) throw error;
    yield* written(path, { ...body, max_tokens: undefined }, signal);
  }
}

async function* written(path, body, signal) {
  let waiting = [];
  let finish = null;
  for await (const event of stream(path, body, signal)) {
    for (const choice of event.choices ?? []) {
      const text = choice.delta ? (choice.delta.content ?? "") : choice.text;
      waiting.push(...tokens(choice.logprobs));
      if (text) yield { piece: [text, waiting] };
      if (text) waiting = [];
      finish = choice.finish_reason ?? finish;
    }
  }
  yield { finish };
}

function tokens(said) {
  if (!said) return [];
  if (said.content) return said.content.map(pair);
  return said.tokens.map((token, n) => [token, said.token_logprobs[n], Object.entries(said.top_logprobs[n] ?? {}).sort((a, b) => b[1] - a[1])]);
}

// Calls `draw` at most once a frame; where no frame is drawn (the tab is hidden), four times a second.
export function perFrame(draw) {
  let asked = false;
  const now = () => {
    if (!asked) return;
    asked = false;
    draw();
  };
  return () => {
    if (asked) return;
    asked = true;
    if (document.hidden) setTimeout(now, 250);
    else requestAnimationFrame(now);
  };
}

export const showsMarkdown = (kind) => kind === "chat" && (settings.markdown ?? true);
