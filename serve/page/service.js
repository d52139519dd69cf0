// Talking to the service. Addresses are relative, so that the page works below any path.

// What went wrong, for a person: `kind` says what the page should offer, `retryAfter` is in seconds or null.
export class Problem extends Error {
  constructor(kind, message, retryAfter = null) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

const KINDS = { 401: "key", 403: "refused", 408: "again", 413: "too_large", 429: "wait", 503: "wait", 504: "again" };

const MESSAGES = {
  no_api_key: "This service asks for a key: enter it in the form.",
  too_large: "The image is too large for this service. Send a smaller file, or a lower resolution.",
  unreachable: "The service can't be reached. Is it running, and are you online?",
  broken: "The answer broke off. The service may have been restarted.",
};

async function call(path, options, key) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("unreachable", MESSAGES.unreachable);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const kind = KINDS[response.status] ?? (response.status < 500 ? "refused" : "again");
  const retryAfter = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  let message = MESSAGES[kind];
  if (!message) {
    const body = await response.json().catch(() => ({})); // a proxy in between may answer with a page of its own
    message = body.error?.message ?? `The service answered with status ${response.status}.`;
    if (body.error?.code === "no_api_key") message = MESSAGES.no_api_key;
  }
  return new Problem(kind, message, Number.isNaN(retryAfter) ? null : retryAfter);
}

// The models that can be asked for, those with CCT in their name left out: that is a switch.
export async function models(key) {
  const response = await call("v1/models", {}, key);
  const { data } = await response.json();
  return data.filter((model) => !model.id.endsWith("+cct"));
}

// Asks, and yields the events of the answer as { event, data } until "result" was among them.
export async function* diagnose(request, key, signal) {
  const response = await call(
    "v1/diagnose",
    { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request), signal },
    key,
  );
  for await (const { event, data } of events(response.body)) {
    if (event === "error") throw new Problem("again", data.error?.message ?? MESSAGES.broken);
    yield { event, data };
    if (event === "result") return;
  }
  throw new Problem("broken", MESSAGES.broken);
}

// Server-sent events: fields in lines, events between empty lines.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  while (true) {
    let chunk;
    try {
      chunk = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("broken", MESSAGES.broken);
    }
    if (chunk.done) return;
    pending += chunk.value;
    const blocks = pending.split(/\r?\n\r?\n/);
    pending = blocks.pop();
    for (const block of blocks) {
      const fields = block.split(/\r?\n/).map((line) => /^(\w+): ?(.*)$/.exec(line)).filter(Boolean);
      const event = fields.find(([, name]) => name === "event")?.[2] ?? "message";
      const data = fields.filter(([, name]) => name === "data").map(([, , value]) => value).join("\n");
      if (data) yield { event, data: JSON.parse(data) };
    }
  }
}
