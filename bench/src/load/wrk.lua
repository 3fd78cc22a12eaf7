-- SPDX-License-Identifier: Apache-2.0
-- A thousand prepared requests spread over the deployed APIs, sent in turn, so that every
-- proxy sees the same paths and the generator builds nothing while it measures.
local prepared, turn = {}, 0

function init(args)
  local apis, suffix, method, body_bytes = tonumber(args[1]), args[2], args[3], tonumber(args[4])
  local close, token = args[5] == "close", args[6]
  if close then wrk.headers["Connection"] = "close" end
  if token and token ~= "" then wrk.headers["Authorization"] = "Bearer " .. token end
  local body = nil
  if body_bytes > 0 then body = string.rep("x", body_bytes) end
  local count = body and 16 or 1000
  for i = 0, count - 1 do
    local path = "/bench-" .. ((i * 7919) % apis) .. "/items/" .. i .. suffix
    prepared[i + 1] = wrk.format(method, path, nil, body)
  end
end

function request()
  turn = turn % #prepared + 1
  return prepared[turn]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
