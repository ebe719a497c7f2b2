"""The wire: a request out, a response or an error of ours back."""

from pipeline.wire.asked import Asked
from pipeline.wire.decode import decode
from pipeline.wire.encode import body, envelope
from pipeline.wire.endpoint import Endpoint
from pipeline.wire.transport import Transport

__all__ = ["Asked", "Endpoint", "Transport", "body", "decode", "envelope"]
