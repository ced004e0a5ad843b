"""A call recorded without libtoll: msgpack and a datagram socket do, but nothing is acknowledged or sent again."""
import os
import socket
import uuid

import msgpack

daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
daemon.connect(os.environ.get("TOLL_SOCKET", "/run/toll/toll.sock"))
call = uuid.uuid4().bytes
daemon.send(msgpack.packb({"type": "session_start", "session_id": call, "metadata": {"user_id": "u_42"}}))
daemon.send(msgpack.packb({"type": "llm", "session_id": call, "provider": "openai", "model": "gpt-4o",
                           "input_tokens": 812, "output_tokens": 24}))
daemon.send(msgpack.packb({"type": "session_end", "session_id": call, "finish_reason": "end"}))
