// Words that only one of two texts has, by the longest common subsequence.

const MAX_CELLS = 6e6 // about 50 ms

function wordsOf(text) {
  return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || []
}

// Return the lengths of common subsequences of the ends of both lists, row by row.
function commonLengths(a, b) {
  const width = b.length + 1
  const table = new Uint16Array((a.length + 1) * width)
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i * width + j] = a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1])
    }
  }
  return table
}

// Return [[text, is it in this side alone], ...] for each side, or null if the texts are too long to compare.
export function differences(textA, textB) {
  const a = wordsOf(textA), b = wordsOf(textB)
  let head = 0
  while (head < a.length && head < b.length && a[head] === b[head]) head++
  let tail = 0
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++
  const midA = a.slice(head, a.length - tail), midB = b.slice(head, b.length - tail)
  if ((midA.length + 1) * (midB.length + 1) > MAX_CELLS) return null
  const table = commonLengths(midA, midB)
  const width = midB.length + 1
  const onlyA = new Uint8Array(a.length), onlyB = new Uint8Array(b.length)
  for (let i = 0, j = 0; i < midA.length || j < midB.length;) {
    if (i < midA.length && j < midB.length && midA[i] === midB[j]) { i++; j++ }
    else if (j >= midB.length || (i < midA.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) onlyA[head + i++] = 1
    else onlyB[head + j++] = 1
  }
  return [bridged(runs(a, onlyA)), bridged(runs(b, onlyB))]
}

// A comma or a short word that two differences have in between is read more easily as a part of them.
function bridged(parts) {
  const result = []
  parts.forEach(([text, differs], index) => {
    const isBridge = !differs && index > 0 && index < parts.length - 1 && !text.includes("\n") && (text.match(/[\p{L}\p{N}]/gu) || []).length < 4
    const last = result[result.length - 1]
    if (last && last[1] === (differs || isBridge)) last[0] += text
    else result.push([text, differs || isBridge])
  })
  return result
}

// Neighbours of one kind as one run.
function runs(words, only) {
  const result = []
  words.forEach((word, index) => {
    const differs = Boolean(only[index] && word.trim())
    const last = result[result.length - 1]
    if (last && last[1] === differs) last[0] += word
    else result.push([word, differs])
  })
  return result
}
