// The API of the server that sent this page: JSON, forms, and streams of server-sent events.

const KEY = "maquette/key";
export const key = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY));

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

function headers(more = {}) {
  return key() ? { ...more, Authorization: `Bearer ${key()}` } : more;
}

async function answered(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server does not answer: is it still running?");
  }
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  let code = null;
  try {
    ({ message, code } = (await response.json()).error);
  } catch {
    // no JSON: the status is all there is to say
  }
  if (response.status === 401) message += " (press Key above)";
  throw new ApiError(response.status, message, code);
}

export const get = async (path, signal) => (await answered(path, { headers: headers(), signal })).json();
export const getBlob = async (path) => (await answered(path, { headers: headers() })).blob();

const posted = (body, signal) =>
  body instanceof FormData
    ? { method: "POST", headers: headers(), body, signal }
    : { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal };

export const post = async (path, body, signal) => (await answered(path, posted(body, signal))).json();

// Events of a streamed answer, each an object; an error amid the answer is raised as one before it.
export async function* stream(path, body, signal) {
  const response = await answered(path, posted({ ...body, stream: true }, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError(0, "the answer broke off: the connection was closed");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const content = JSON.parse(data);
        if (content.error) throw new ApiError(500, content.error.message);
        yield content;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError(0, "the answer broke off: the connection was lost");
  } finally {
    reader.cancel().catch(() => {});
  }
}
