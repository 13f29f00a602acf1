// OpenAI's own client for Node, which openai_clients.py tells what to call, a line of JSON each.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// the packages lie in the folder that the command line names, not beside this file
const folder = createRequire(pathToFileURL(`${process.argv[2]}/`));
const load = (name) => import(pathToFileURL(folder.resolve(name)).href).then((found) => found.default ?? found);
const OpenAI = (await load("openai")).OpenAI;
const { zodResponseFormat } = await load("openai/helpers/zod");
const { z } = await load("zod");
const { VERSION } = await load("openai/version");

// the same as in openai_client.py
const Weather = z.object({
  city: z.enum(["Paris", "London", "Rome"]),
  degrees: z.number().int().min(0).max(40),
  rain: z.boolean(),
});

async function call(asked) {
  const timeout = asked.timeout ?? 60;
  const client = new OpenAI({ baseURL: asked.address, apiKey: asked.key, maxRetries: 0, timeout: timeout * 1000 });
  const body = { ...asked.arguments, ...asked.extra };
  const chats = client.chat.completions;
  const resource = { chat: chats, completions: client.completions, embeddings: client.embeddings }[asked.of];
  switch (asked.do) {
    case "list":
      return Array.fromAsync(await client.models.list());
    case "retrieve":
      return client.models.retrieve(asked.of);
    case "get":
      return client.get(asked.of);
    case "create":
      return resource.create(body);
    case "stream":
      return Array.fromAsync(await resource.create({ ...body, stream: true }));
    case "abort": {
      const heard = [];
      for await (const chunk of await resource.create({ ...body, stream: true })) {
        if (heard.push(chunk) === 3) break; // which aborts the request
      }
      return heard;
    }
    case "cancel": {
      const stop = new AbortController();
      setTimeout(() => stop.abort(), timeout * 1000);
      const answer = client.chat.completions.create(body, { signal: stop.signal, timeout: 60_000 });
      return answer.then(() => "answered", (error) => (error instanceof OpenAI.APIUserAbortError ? "cancelled" : error));
    }
    case "helper": {
      const deltas = [];
      const stream = chats.stream(body).on("content", (delta) => deltas.push(delta));
      return { final: await stream.finalChatCompletion(), deltas };
    }
    case "parse": {
      const completion = await chats.parse({ ...body, response_format: zodResponseFormat(Weather, "weather") });
      const { content, parsed } = completion.choices[0].message;
      return { content, parsed };
    }
    default:
      throw new Error(`do=${asked.do} is nothing that this client does`);
  }
}

console.log(JSON.stringify(`openai ${VERSION}, Node ${process.versions.node}`));
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { found: await call(JSON.parse(line)) };
  } catch (error) {
    // its own, and what else comes of an answer that it cannot read
    const { status, code, param, type, requestID, message } = error;
    answer = { error: { class: error.constructor.name, status, code, param, type, request_id: requestID, message } };
  }
  console.log(JSON.stringify(answer));
}
