// llama.cpp as a process, by the packages of node-llama-cpp: `node llama_cpp_worker.mjs FOLDER_OF_NODE_MODULES FILE.gguf`. Reads and
// writes the lines of engine_workers.py; token ids are drawn here, since only their number matters.

import { createInterface } from "node:readline"
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"

const [folder, file] = process.argv.slice(2)
const { getLlama } = await import(pathToFileURL(createRequire(`${folder}/`).resolve("node-llama-cpp")))
const llama = await getLlama({ gpu: false, build: "never", maxThreads: 1, logLevel: "error" })
const model = await llama.loadModel({ modelPath: file })
const context = await model.createContext({ sequences: 8, contextSize: 4096, batchSize: 512, threads: 1 })
const sequences = Array.from({ length: 8 }, () => context.getSequence())

async function answer(sequence, prompt, count, onFirst) {
  await sequence.clearHistory()
  let number = 0
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (!number++) onFirst()
    if (number === count) return token
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const load = JSON.parse(line)
  const prompts = Array.from({ length: load.users }, () => Array.from({ length: load.prompt }, () => 100 + Math.floor(Math.random() * 30_000)))
  const began = performance.now()
  let first = 0
  const isFirst = () => { first = performance.now() - began }
  await Promise.all(prompts.map((prompt, at) => answer(sequences[at], prompt, load.new, isFirst)))
  const end = performance.now() - began
  console.log(JSON.stringify({ first_s: first / 1000, decode: (load.users * (load.new - 1)) / ((end - first) / 1000), end_s: end / 1000 }))
}
