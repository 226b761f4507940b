// Text files in a message: read with their limits, written behind the text as fenced blocks, and found there again.

const MAX_FILE_BYTES = 200_000
const MAX_FILES = 20
const MAX_CHARACTERS = 200_000 // of a message, as the server takes it
const LONGEST_NAME = 80
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}`]/gu // control characters, turns of the reading direction, ends of lines

// A file's name as one line of plain text: what turns its direction or ends the line would make it look like another.
export function plainName(name) {
  const plain = name.replace(UNSEEN, "").trim().slice(-LONGEST_NAME)
  return plain || "unnamed"
}

export function blockOf({ name, text }) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length))
  const fence = "`".repeat(longest + 1)
  return `\n\nFile ${name}:\n\n${fence}\n${text.trimEnd()}\n${fence}`
}

// The words of a message, and the files behind them.
export function splitFiles(message) {
  const blocks = [...message.matchAll(/(?:^|\n\n)File ([^\n]+):\n\n(`{3,})\n([\s\S]*?)\n\2(?=\n\nFile |$)/g)]
  const start = blocks[0]?.index
  const whole = blocks.reduce((at, match) => (at === match.index ? at + match[0].length : -1), start)
  if (!blocks.length || whole !== message.length) return { words: message, files: [] }
  return { words: message.slice(0, start), files: blocks.map(([, name, , text]) => ({ name, text })) }
}

// Read files that can be attached; `room` is how many characters the message may still take. Returns them and the problems of the others.
export async function readFiles(list, { room, count }) {
  const files = [], problems = []
  for (const file of list) {
    const name = plainName(file.name)
    if (count + files.length >= MAX_FILES) { problems.push(`A message takes ${MAX_FILES} files.`); break }
    const { text, problem } = await readText(file, name)
    const characters = text === undefined ? 0 : blockOf({ name, text }).length
    if (problem) problems.push(problem)
    else if (characters > room) problems.push(`${name} does not fit: a message has at most ${MAX_CHARACTERS.toLocaleString("en")} characters.`)
    else { files.push({ name, text }); room -= characters }
  }
  return { files, problems }
}

export const roomLeft = (text) => MAX_CHARACTERS - text.length

async function readText(file, name) {
  if (file.size > MAX_FILE_BYTES) return { problem: `${name} has ${Math.ceil(file.size / 1000).toLocaleString("en")} kB; attach text files of at most 200 kB.` }
  let bytes
  try { bytes = await file.arrayBuffer() } catch { return { problem: `${name} can't be read. A folder can't be attached.` } }
  if (!bytes.byteLength) return { problem: `${name} is empty.` }
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes)
    if (!text.includes("\u0000")) return { text }
  } catch { /* not UTF-8 */ }
  return { problem: `${name} is not a text file in UTF-8.` }
}
