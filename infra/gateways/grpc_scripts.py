"""Two scripts of the gateway's Lua filters for gRPC; see infra/gateways/grpc.py for their places on a call's way."""

from __future__ import annotations

import json
import re

from bentos.serving.wire.v2.grpc import CONTENT_TYPE
from bentos.serving.wire.v2.grpc_status import MESSAGE_HEADER, STATUS_HEADER

FRAME = 5  # bytes that gRPC puts before a message

_MODEL = """
local function fail(handle, status, message)
  handle:respond({[":status"] = "400", ["grpc-status"] = status}, message)
end

local function varint(body, at, size)
  local bytes, value, scale = body:getBytes(at, math.min(10, size - at)), 0, 1
  for i = 1, #bytes do
    local byte = bytes:byte(i)
    value = value + (byte % 128) * scale
    if byte < 128 then return value, at + i end
    scale = scale * 128
  end
  return nil
end

-- The texts in the fields 1 and 2 of the message, wherever they are; nil for one that is not there.
local function names_in(body, size)
  local at, name, version = FRAME, nil, nil
  for _ = 1, 1000 do
    if at >= size then break end
    local tag, length
    tag, at = varint(body, at, size)
    if tag == nil then break end
    local wire = tag % 8
    if wire == 0 then
      length, at = varint(body, at, size)
      if length == nil then break end
    elseif wire == 1 then
      at = at + 8
    elseif wire == 5 then
      at = at + 4
    elseif wire == 2 then
      if at >= size then break end
      length, at = varint(body, at, size)
      if length == nil or length > size - at then break end
      if tag == 10 and name == nil then
        if length == 0 or length > 1024 then return nil end
        name = body:getBytes(at, length)
      elseif tag == 18 and version == nil and length > 0 then
        version = body:getBytes(at, math.min(length, 64))
      end
      if name ~= nil and version ~= nil then break end
      at = at + length
    else
      break
    end
  end
  return name, version
end

local function quote(name)
  return (name:gsub("[^A-Za-z0-9_.~-]", function(char) return string.format("%%%02X", char:byte()) end))
end

function envoy_on_request(handle)
  local body = handle:body(true)
  local size = body:length()
  if size < FRAME then return fail(handle, "3", "body: expected a message of gRPC, found " .. size .. " bytes") end
  local frame = body:getBytes(0, FRAME)
  if frame:byte(1) ~= 0 then
    return fail(handle, "12", "body: expected a message without compression; make the client send it plain")
  end
  local length = ((frame:byte(2) * 256 + frame:byte(3)) * 256 + frame:byte(4)) * 256 + frame:byte(5)
  if length ~= size - FRAME then
    return fail(handle, "3", "body: expected one message of " .. length .. " bytes, found " .. (size - FRAME))
  end
  local name, version = names_in(body, size)
  if name == nil then
    return fail(handle, "3", "expected a message with the model's name (field 1) of at most 1024 bytes, found none")
  end
  local headers = handle:headers()
  local named = version and "/versions/" .. quote(version) or ""
  headers:replace(":path", "/models/" .. quote(name) .. named .. headers:get(":path"))
  handle:clearRouteCache()
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, message = headers:get(STATUS), headers:get(MESSAGE)
  if status == nil then
    if headers:get("grpc-status") == "2" and (headers:get("grpc-message") or ""):find("reverse bridge", 1, true) then
      headers:replace("grpc-status", "12")
      headers:replace("grpc-message", "this version's server does not speak gRPC: its bento is older; release it again")
    end
    return
  end
  headers:remove(STATUS)
  headers:remove(MESSAGE)
  headers:remove("grpc-status")
  headers:remove("grpc-message")
  headers:replace("content-type", "application/grpc")  -- the bridge leaves its own where it saw no request
  local body = handle:body()
  if body ~= nil then body:setBytes("") end
  handle:headers():remove("content-length")
  local last = handle:trailers() or handle:headers()
  last:replace("grpc-status", status)
  last:replace("grpc-message", message or "")
end
"""

_LOCAL = """
function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("content-type") ~= "application/grpc" then return end
  headers:replace("content-type", CONTENT_TYPE)
  if headers:get(STATUS) == nil then headers:add(STATUS, headers:get("grpc-status") or "2") end
  headers:replace(MESSAGE, headers:get("grpc-message") or "")
end
"""


def model_script() -> str:
    """Routes a call by the model that its message names, and makes gRPC's own of the headers that tell an error."""
    return _filled(_MODEL)


def local_script() -> str:
    """Lets what Envoy itself answers pass for a model server's answer."""
    return _filled(_LOCAL)


def _filled(text: str) -> str:
    values = {"STATUS": STATUS_HEADER, "MESSAGE": MESSAGE_HEADER, "FRAME": FRAME, "CONTENT_TYPE": CONTENT_TYPE}
    for name, value in values.items():
        text = re.sub(rf"\b{name}\b", json.dumps(value), text)
    return text
