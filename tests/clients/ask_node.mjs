// Ask through the `openai` package for Node; facts go to standard output.
import { createRequire } from "node:module";

const OpenAI = createRequire(`${process.env.NODE_PACKAGES}/`)("openai");
const round = JSON.parse(process.env.ROUND);
const connect = (apiKey) => new OpenAI({ baseURL: round.url, apiKey, maxRetries: 0 });
const client = connect(round.key);
const question = { role: "user", content: round.prompt };
const body = { model: round.model, messages: [question], max_tokens: 60, temperature: 0 };

const models = (await client.models.list()).data.map((model) => model.id);
const answer = await client.chat.completions.create(body);
const stream = [];
let stream_tokens = 0;
for await (const chunk of await client.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } })) {
  if (chunk.choices[0]?.delta?.content) stream.push(chunk.choices[0].delta.content);
  stream_tokens += chunk.usage?.completion_tokens ?? 0;
}
const tools = [round.tool];
const asking = (await client.chat.completions.create({ ...body, tools, tool_choice: "required" })).choices[0].message;
const call = asking.tool_calls[0];
const messages = [question, asking, { role: "tool", tool_call_id: call.id, content: round.result }];
const continued = await client.chat.completions.create({ ...body, tools, messages });
const response_format = { type: "json_schema", json_schema: { name: "city", schema: round.schema, strict: true } };
const formed = await client.chat.completions.create({ ...body, response_format });
let refusal;
try {
  await connect("wrong").models.list();
} catch (error) {
  if (!(error instanceof OpenAI.AuthenticationError)) throw error;
  refusal = [error.constructor.name, error.message];
}

console.log(JSON.stringify({
  models,
  answer: answer.choices[0].message.content,
  stream,
  completion_tokens: answer.usage.completion_tokens,
  stream_tokens,
  tool_call: [call.function.name, JSON.parse(call.function.arguments)],
  continued: continued.choices[0].message.content,
  by_schema: JSON.parse(formed.choices[0].message.content),
  refusal,
}));
