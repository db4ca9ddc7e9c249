"""What a page or a client sent."""

from __future__ import annotations

from webapp.errors.base import RoostError


class WebError(RoostError):
    code = "web_error"
    status = 400
    message_text = "The request was not understood: {reason}"
    hint_text = "Reload the page and try again."


class BadFrame(WebError):
    code = "bad_frame"
    message_text = "That message was not understood: {reason}"
    hint_text = "Reload the page; what you wrote is kept."


class NotAllowed(WebError):
    code = "not_allowed"
    status = 403
    message_text = "That is not allowed: {reason}"
    hint_text = "Open Roost by the address it printed when it started."


class TokenRequired(NotAllowed):
    code = "invalid_api_key"
    status = 401
    message_text = "A token is needed here."
    hint_text = "Send it as `Authorization: Bearer TOKEN`, or open the address Roost printed when it started."


class OwnerOnly(NotAllowed):
    code = "owner_only"
    message_text = "Only the owner of this Roost may do that."
    hint_text = (
        "If it is yours, run `roost open` on the machine it runs on and open the link. Scripts send the key in"
        " `owner.key` of the data folder as `Authorization: Bearer KEY`."
    )


class OwnerLinkUsed(NotAllowed):
    code = "owner_link_used"
    message_text = "This link has been used already, or is too old."
    hint_text = "Run `roost open` on the machine Roost runs on for a new one."


class NotRunning(WebError):
    code = "not_running"
    status = 503
    message_text = "No Roost is running with the data folder {path}."
    hint_text = "Start it with `roost`, or name another folder with --data."


class TooManyRequests(WebError):
    code = "too_many_requests"
    status = 429
    message_text = "Too many requests at once."
    hint_text = "Wait a moment, then try again."


class TooLarge(WebError):
    code = "too_large"
    status = 413
    message_text = "That is {found} bytes; the limit is {limit}."
    hint_text = "Send less at once."
