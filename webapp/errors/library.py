"""Files of the library that cannot be added, renamed or deleted."""

from __future__ import annotations

from webapp.errors.base import RoostError


class LibraryError(RoostError):
    code = "library_error"
    status = 409
    message_text = "That cannot be done with {name}: {reason}"
    hint_text = "Nothing was changed."


class ModelInUse(LibraryError):
    code = "model_in_use"
    message_text = "{name} is loaded or being loaded."
    hint_text = "Unload it first; nothing was changed."


class StateInUse(LibraryError):
    code = "state_in_use"
    message_text = "{name} is the state new answers begin with now."
    hint_text = "Choose another one, or none, first; nothing was changed."


class ModelKept(LibraryError):
    code = "model_kept"
    message_text = "{name} came with Roost and stays."
    hint_text = "It is what Roost answers with when no other model is there."


class FileNameTaken(LibraryError):
    code = "file_name_taken"
    message_text = "There is already a file {name}."
    hint_text = "Choose another name, or delete that file first."


class FileNameUnusable(LibraryError):
    code = "file_name_unusable"
    status = 400
    message_text = "{name} cannot be the name of a model file."
    hint_text = "A name ends in {endings}, and holds more than that."


class DiskFull(LibraryError):
    code = "disk_full"
    status = 507
    message_text = "The disk has {free} free; {needed} are needed."
    hint_text = "Make room, for example by emptying the trash on the Models page, then try again."


class FolderNotWritable(LibraryError):
    code = "folder_not_writable"
    status = 403
    message_text = "{folder} cannot be written to: {reason}"
    hint_text = "Check who may write there; nothing was changed."


class UploadMissing(LibraryError):
    code = "upload_missing"
    status = 404
    message_text = "This upload is not under way any more."
    hint_text = "Choose the file again; it begins anew."


class UploadOffset(LibraryError):
    code = "upload_offset"
    message_text = "The upload goes on at byte {expected}, not {found}."
    hint_text = "Choose the file again; it goes on where it stopped."


class UploadRefused(LibraryError):
    code = "upload_refused"
    status = 400
    message_text = "More bytes came than the {size} that were announced."
    hint_text = "Choose the file again once nothing writes to it any more."


class TrashMissing(LibraryError):
    code = "trash_missing"
    status = 404
    message_text = "This file is not in the trash any more."
    hint_text = "Reload the page to see what is there."


class FileOutdated(LibraryError):
    code = "file_outdated"
    message_text = "{name} changed while it was being copied."
    hint_text = "Wait until nothing writes to it any more, then import it again."


class JobNotFound(RoostError):
    code = "job_not_found"
    status = 404
    message_text = "There is no such job."
    hint_text = "It was removed from the list; reload the page to see what is there."
