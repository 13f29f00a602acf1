// Continues texts greedily with a GGUF file of gptjax, through llama.cpp in this process.
//
//   node greedy.mjs FILE.gguf COUNT THREADS TEXT ...
//
// At most COUNT tokens go to the standard output as they are written, then a line of JSON to the standard error: ids of
// the prompt and of what was written, seconds to the first token, tokens a second after it.

import { getLlama } from "node-llama-cpp";

const [file, count, threads, ...texts] = process.argv.slice(2);
if (texts.length === 0) {
  console.error("usage: node greedy.mjs FILE.gguf COUNT THREADS TEXT ...");
  process.exit(2);
}
// build: the binary that comes as a package, or an error; nothing is fetched or compiled
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath: file });
// keys and values in 32 bits; with 16, the default, another token may win where two are nearly as likely
const context = await model.createContext({
  threads: Number(threads),
  flashAttention: false,
  experimentalKvCacheKeyType: "F32",
  experimentalKvCacheValueType: "F32",
});
const sequence = context.getSequence();

for (const given of texts) {
  const prompt = model.tokenize(given);
  if (model.tokens.shouldPrependBosToken) prompt.unshift(model.tokens.bos);
  await sequence.clearHistory();
  const ids = [];
  let [written, first] = ["", 0];
  const began = performance.now();
  for await (const id of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    first ||= performance.now() - began;
    ids.push(id);
    const text = model.detokenize(ids);
    if (!text.endsWith("\ufffd")) {
      process.stdout.write(text.slice(written.length)); // not while a character is half there
      written = text;
    }
    if (ids.length === Number(count) || model.isEogToken(id)) break;
  }
  const rest = performance.now() - began - first;
  process.stdout.write("\n");
  console.error(JSON.stringify({ prompt, ids, first: first / 1000, rate: ((ids.length - 1) / rest) * 1000 }));
}
await llama.dispose();
