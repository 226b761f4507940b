// Code blocks of an answer: coloured by a small lexer that needs no grammar, with a head that names the language and copies.

import { element } from "../dom.js"
import { copy, iconButton } from "./icons.js"

const LONGEST = 20_000
const HASH_COMMENTS = /^(py|python|sh|bash|shell|zsh|rb|ruby|yaml|yml|toml|r|perl|make|makefile|dockerfile|ini|conf|nix|julia|elixir)$/i
const DASH_COMMENTS = /^(sql|lua|haskell|hs|ada|elm)$/i
const WORDS = new Set(`abstract and as assert async await begin bool break by case catch char class const continue create data def default defer del delete do
  double elif else elsif end enum except export extends extern false False final finally float fn for from func function global go goto group if impl implements import in
  include insert instanceof int interface into is join lambda let limit local long loop match mod module mut namespace new nil None none nonlocal not null Nothing of on or order
  package pass private proc protected pub public raise range return self select set short signed sizeof static string struct super switch table template then this throw throws
  trait true True try type typedef typeof union unless unsigned until update use using val values var virtual void volatile when where while with yield`.split(/\s+/))

function lexer(language) {
  const comments = HASH_COMMENTS.test(language) ? "#[^\\n]*" : DASH_COMMENTS.test(language) ? "--[^\\n]*" : "//[^\\n]*|/\\*[\\s\\S]*?\\*/"
  const strings = "\"\"\"[\\s\\S]*?\"\"\"|'''[\\s\\S]*?'''|\"(?:\\\\.|[^\"\\\\\\n])*\"|'(?:\\\\.|[^'\\\\\\n])*'|`(?:\\\\.|[^`\\\\])*`"
  return new RegExp(`(?<comment>${comments})|(?<string>${strings})|(?<number>\\b\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?\\b)|(?<word>[A-Za-z_]\\w*)`, "g")
}

export function colour(code, language) {
  const text = code.textContent
  if (text.length > LONGEST || /^(text|txt|plain|output|verbatim)$/i.test(language)) return
  const parts = []
  let at = 0
  for (const match of text.matchAll(lexer(language))) {
    const { comment, string, number, word } = match.groups
    const kind = comment ? "comment" : string ? "string" : number ? "number" : WORDS.has(word) || WORDS.has(word?.toLowerCase()) && /^sql$/i.test(language) ? "keyword" : null
    if (!kind) continue
    if (match.index > at) parts.push(document.createTextNode(text.slice(at, match.index)))
    parts.push(element("span", `pg-${kind}`, match[0]))
    at = match.index + match[0].length
  }
  parts.push(document.createTextNode(text.slice(at)))
  code.replaceChildren(...parts)
}

// Dress the code blocks below a node that are not dressed yet.
export function dressCode(root) {
  for (const box of root.querySelectorAll(".bt-wide")) {
    const code = box.querySelector(":scope > .bt-code > code")
    if (!code || box.previousElementSibling?.classList.contains("pg-code-head")) continue
    const language = (box.getAttribute("aria-label") || "").replace(/^Code,? ?/, "")
    colour(code, language)
    const head = element("div", "pg-code-head")
    head.append(element("span", "", language || "code"), iconButton("content_copy", "Copy the code", (event) => copy(code.textContent, event.currentTarget)))
    const frame = element("div", "pg-code")
    box.replaceWith(frame)
    frame.append(head, box)
  }
}
