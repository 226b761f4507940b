// Rules for the scripts of the pages. Run by `make check`, with the packages in `.venv/node`.

import { createRequire } from "node:module"

const load = createRequire(process.env.NODE_PACKAGES + "/")
const js = load("@eslint/js")
const globals = load("globals")

export default [
  js.configs.recommended,
  {
    files: ["**/*.js", "**/*.mjs"],
    languageOptions: { ecmaVersion: 2024, sourceType: "module", globals: { ...globals.browser, process: "readonly" } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "eqeqeq": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-restricted-properties": ["error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML"].map((property) => ({ property, message: "Text of a network can't become markup: use textContent." })),
      ],
      "no-shadow": "error",
      "no-var": "error",
      "prefer-const": ["error", { destructuring: "all" }],
    },
  },
]
