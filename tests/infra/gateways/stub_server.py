"""A server that keeps the header contract of a model server, and misbehaves when told to.

    python stub_server.py <socket> <version>

``GET /mode/<ok|half|slow|…>`` on its socket changes how it answers from then on.
"""

import asyncio
import json
import sys

import uvicorn


class Stub:
    def __init__(self, version):
        self.version = version
        self.mode = "ok"
        self.answered = 0
        self.mirrored = 0
        self.longest = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        more, size = True, 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        path = scope["path"]
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        status, extra = 200, {}
        if path.startswith("/mode/"):
            self.mode = path.removeprefix("/mode/")
        elif path == "/counts":
            extra = {"answered": self.answered, "mirrored": self.mirrored, "longest": self.longest}
        elif path != "/readyz":
            self.longest = max(self.longest, size)
            status = await self.predict(headers)
        arm, _, version = headers.get("x-shipway-assigned", "/").partition("/")
        answer = {"content-type": "application/json", "x-shipway-version": self.version}
        if version and version != self.version:
            answer |= {"x-shipway-arm": "baseline", "x-shipway-fallback": f"{arm}/{version}"}
        elif version:
            answer["x-shipway-arm"] = arm
        body = json.dumps({"path": path, "size": size, "headers": headers, **extra}).encode()
        answer["content-length"] = str(len(body))
        if status == 400:
            answer["x-shipway-refused"] = "model"
        raw = [(key.encode(), value.encode()) for key, value in answer.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    async def predict(self, headers):
        self.answered += 1
        self.mirrored += "-shadow" in headers["host"]
        if self.mode == "slow":
            await asyncio.sleep(1.0)
        if self.mode == "hangs":
            await asyncio.sleep(30.0)
        if self.mode == "broken":
            return 500
        if self.mode == "full":
            return 429
        if self.mode == "refuses":
            return 400
        return 500 if self.mode == "half" and self.answered % 2 else 200


if __name__ == "__main__":
    uvicorn.run(Stub(sys.argv[2]), uds=sys.argv[1], log_level="error", access_log=False)
