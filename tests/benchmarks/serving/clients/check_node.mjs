// The `openai` package for Node: models, a chat, a stream, a forced call of a tool.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, maxRetries: 0 });
const model = process.env.MODEL;
const body = { model, messages: [{ role: "user", content: "Hello" }], max_tokens: 8 };
const check = (isTrue, what) => { if (!isTrue) throw new Error(what); };

const names = (await client.models.list()).data.map((entry) => entry.id);
check(names.includes(model), "the model is not listed");
const answer = await client.chat.completions.create({ ...body, temperature: 0 });
check(answer.usage.completion_tokens > 0, "no tokens");
let text = "";
for await (const chunk of await client.chat.completions.create({ ...body, temperature: 0, stream: true })) text += chunk.choices[0]?.delta?.content ?? "";
check(text === answer.choices[0].message.content, "the stream differs from the complete answer");
const parameters = { type: "object", properties: { city: { enum: ["Graz"] } }, required: ["city"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const called = await client.chat.completions.create({ ...body, max_tokens: 60, tools, tool_choice: "required" });
check(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).city === "Graz", "the call has other arguments");
console.log("openai (Node): models, chat, stream, tools");
