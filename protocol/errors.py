"""The one error of this package."""


class ProtocolError(Exception):
    """The peer broke the protocol; `reason` is one line that can be shown and logged.

    `status` follows the HTTP habit: 4xx, the sender's fault.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
