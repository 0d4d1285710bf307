"""Signs webhooks as their senders do, so that schemathesis gets past the signature."""

import base64
import hashlib
import hmac
import os
import time
import uuid

import requests
import schemathesis


class Signature(requests.auth.AuthBase):
    """Standard Webhooks' headers over the body as it is sent."""

    def __init__(self, secret):
        self.key = base64.b64decode(secret.removeprefix("whsec_"))

    def __call__(self, request):
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        message, at = f"msg_{uuid.uuid4().hex}", str(int(time.time()))
        signed = hmac.new(self.key, f"{message}.{at}.".encode() + body, hashlib.sha256).digest()
        request.headers["webhook-id"] = message
        request.headers["webhook-timestamp"] = at
        request.headers["webhook-signature"] = "v1," + base64.b64encode(signed).decode()
        return request


@schemathesis.hook
def before_call(context, case, kwargs):
    secret = os.environ.get("SECRET_OF" + case.operation.path.replace("/", "_").replace("-", "_"))
    if secret:
        kwargs["auth"] = Signature(secret)
