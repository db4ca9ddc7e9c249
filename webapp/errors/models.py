"""The one model: how it is run, and its engine process."""

from __future__ import annotations

from webapp.errors.base import RoostError


class StrategyError(RoostError):
    code = "strategy_invalid"
    status = 400
    message_text = "The strategy {strategy!r} cannot be used: {reason}"
    hint_text = "{way_out}"


class BackendUnavailable(RoostError):
    code = "backend_unavailable"
    status = 400
    message_text = "{backend} cannot run on this machine: {reason}"
    hint_text = "{way_out}"


class ModelError(RoostError):
    code = "model_error"
    status = 503
    message_text = "The model is not available: {reason}"
    hint_text = "Load it again."


class ModelNotFound(ModelError):
    code = "model_not_found"
    status = 404
    message_text = "There is no model {name}."
    hint_text = "`roost models` and the Models page list what is here; put files into the models folder."


class NoModelLoaded(ModelError):
    code = "no_model"
    message_text = "No model is chosen yet."
    hint_text = "Put an RWKV model into the models folder and load it."


class ModelLoadFailed(ModelError):
    code = "load_failed"
    message_text = "{name} could not be loaded: {reason}"
    hint_text = "Nothing was changed. Try another strategy, or another model."


class LoadCancelled(ModelError):
    code = "load_cancelled"
    status = 409
    message_text = "Loading was cancelled."
    hint_text = "Load it again whenever you like."


class OutOfMemory(ModelError):
    code = "out_of_memory"
    message_text = "Memory ran out: {reason}"
    hint_text = "Choose a smaller model or a strategy that needs less memory (bf16 or int8)."


class ModelDoesNotFit(ModelError):
    code = "model_does_not_fit"
    status = 400
    message_text = "{name} does not fit into memory: {reason}"
    hint_text = (
        "Choose a smaller model, or a strategy that needs less memory (bf16 or int8). To try it all the same, press "
        "“Load anyway” in the model menu, or start Roost with --load-anyway."
    )


class EngineCrashed(ModelError):
    code = "engine_crashed"
    message_text = "The engine stopped while it worked: {reason}"
    hint_text = "Send again: the model is loaded anew by itself."


class EngineStalled(ModelError):
    code = "engine_stalled"
    message_text = "The engine was ended: {reason}"
    hint_text = (
        "Send again: the model is being loaded anew. If this machine is only slow, start Roost with a higher "
        "--stall-limit-s."
    )


class CrashLoop(ModelError):
    code = "crash_loop"
    message_text = "The engine stopped {tries} times in a row; the last time: {reason}"
    hint_text = "Load the model by hand with another strategy, or choose another model."


class ModelUnloaded(ModelError):
    code = "model_unloaded"
    message_text = "The model was unloaded or changed before this answer was done."
    hint_text = "Send again: the answer will come from the model loaded now."


class QueueFull(ModelError):
    code = "queue_full"
    message_text = "{waiting} requests are waiting already."
    hint_text = "Try again in a moment."


class ShuttingDown(ModelError):
    code = "shutting_down"
    message_text = "Roost is stopping."
    hint_text = "Start it again, then repeat the request."


class NonFiniteLogits(ModelError):
    code = "non_finite_logits"
    message_text = "The model's output is not a number (NaN or infinite) after {tokens} tokens."
    hint_text = "The weights or the state may be damaged, or the precision too low: try fp32 or bf16."
