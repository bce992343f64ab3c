# A mail server (aiosmtpd) that writes down what it takes, a line of JSON for each mail.
import json
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

settings = json.loads(sys.stdin.readline())


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        line = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "content": envelope.content.decode("utf-8", "replace"),
            "tls": session.ssl is not None or settings["how"] == "tls",
            "user": session.auth_data.login.decode() if session.auth_data else None,
        }
        with open(settings["file"], "a") as file:
            file.write(json.dumps(line) + "\n")
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and data.password.decode() == settings["password"]
    # What is not handled here is answered with 535.
    return AuthResult(success=good, handled=False, auth_data=data)


context = None
if settings["how"] != "off":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["certificate"], settings["key"])
more = {}
if settings["how"] == "starttls":
    more = {"tls_context": context, "require_starttls": True, "auth_require_tls": True}
if settings["how"] == "tls":
    more = {"auth_require_tls": False}
if settings["how"] != "off":
    more |= {"auth_required": True, "authenticator": authenticate}
controller = Controller(
    Handler(),
    hostname="127.0.0.1",
    port=settings["port"],
    ssl_context=context if settings["how"] == "tls" else None,
    **more,
)
controller.start()
print("ready", flush=True)
# Until whoever started it is gone.
sys.stdin.read()
