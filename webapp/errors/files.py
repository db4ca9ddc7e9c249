"""Files on disk that are not what they should be, and conversions of them."""

from __future__ import annotations

from webapp.errors.base import RoostError


class WeightsError(RoostError):
    code = "file_error"
    status = 400
    message_text = "{path} cannot be used: {reason}"
    hint_text = "`roost inspect FILE` says what is in a file."


class FileMissing(WeightsError):
    code = "file_not_found"
    status = 404
    message_text = "There is no file {path}."
    hint_text = "Check the name; `roost models` lists the models Roost can see."


class StateMissing(FileMissing):
    code = "state_not_found"
    message_text = "There is no state {path}."
    hint_text = "The States page lists those there are; choose another one, or none."


class FileIsDirectory(WeightsError):
    code = "file_is_directory"
    message_text = "{path} is a folder, not a model file."
    hint_text = "Name one file inside it."


class FileEmpty(WeightsError):
    code = "file_empty"
    message_text = "{path} is empty (0 bytes)."
    hint_text = "Download or copy it again."


class FileUnreadable(WeightsError):
    code = "file_unreadable"
    status = 403
    message_text = "{path} cannot be read: {reason}"
    hint_text = "Check who may read the file."


class FileReadingFailed(WeightsError):
    code = "file_reading_failed"
    message_text = "{path} cannot be read safely: {reason}"
    hint_text = "Roost leaves it alone until it changes; fetch it again. `roost inspect FILE` tries again."


class FileTruncated(WeightsError):
    code = "file_truncated"
    message_text = "{path} is cut off: {reason}"
    hint_text = "The download or copy did not finish; fetch it again."


class UnsafePickle(WeightsError):
    code = "unsafe_pickle"
    message_text = "{path} asks to run code when it is opened ({reason}); Roost refuses."
    hint_text = "Get the model from a source you trust, best as .safetensors."


class WrongExtension(WeightsError):
    code = "wrong_extension"
    message_text = "{path} is named {extension} but holds {found}."
    hint_text = "Rename it to end in {expected}."


class UnknownFormat(WeightsError):
    code = "unknown_format"
    message_text = "{path} is in no format Roost knows."
    hint_text = "Roost reads .pth, .safetensors and .st files of RWKV models."


class NotAModel(WeightsError):
    code = "not_a_model"
    message_text = "{path} is {found}, not an RWKV model."
    hint_text = "{way_out}"


class StateMismatch(WeightsError):
    code = "state_mismatch"
    message_text = "The state {path} does not fit: {what} should be {expected}, but is {found}."
    hint_text = "Choose a state made for this model's architecture and size; the state in use stays."


class StateDropped(StateMismatch):
    code = "state_dropped"
    message_text = "New answers begin without the state {path}: {what} should be {expected}, but is {found}."
    hint_text = "It stayed behind with the model it was used with; the States page says which states fit."


class BlendInvalid(WeightsError):
    code = "blend_invalid"
    message_text = "These states cannot be blended: {reason}"
    hint_text = "Choose two or more states of the same size, with weights from 0 up."


class LegacyPth(WeightsError):
    code = "legacy_pth"
    message_text = "{path} was saved by a PyTorch older than 1.6, in a format Roost does not open."
    hint_text = "Load it with torch and save it again: torch.save(torch.load(FILE), NEW_FILE)."


class VocabularyInvalid(WeightsError):
    code = "vocabulary_invalid"
    message_text = "The vocabulary {path} cannot be used: {reason}"
    hint_text = "Replace it, or take it away if the model uses the World vocabulary."


class TokenizerMissing(WeightsError):
    code = "tokenizer_missing"
    message_text = "Roost has no tokenizer for {path} ({vocab_size} tokens)."
    hint_text = "Put {wanted} into the models folder or beside the model."


class ConversionError(RoostError):
    code = "conversion_failed"
    status = 422
    message_text = "The conversion failed: {reason}"
    hint_text = "Nothing was written; the original file is as it was."


class ConversionRefused(ConversionError):
    code = "conversion_refused"
    message_text = "{path} cannot be converted to {target}: {reason}"
    hint_text = "{way_out}"


class ConversionCancelled(ConversionError):
    code = "conversion_cancelled"
    status = 409
    message_text = "The conversion was cancelled."
    hint_text = "Nothing was written; start it again whenever you like."


class ConversionTargetExists(ConversionError):
    code = "conversion_target_exists"
    status = 409
    message_text = "{path} is there already."
    hint_text = "Choose another name, or overwrite it (`--overwrite`)."


class ConversionNoSpace(ConversionError):
    code = "conversion_no_space"
    status = 507
    message_text = "{path} would need {needed}, and {free} are free there."
    hint_text = "Free some space, or name a file on another disk."


class LoraMismatch(ConversionError):
    code = "lora_mismatch"
    message_text = "The LoRA {path} does not fit: {what} should be {expected}, found {found}."
    hint_text = "Merge it into the model it was trained for. Nothing was written."
