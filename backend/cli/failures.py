"""Format errors for the command line. Imported only after a failure, because it needs pydantic and SQLAlchemy."""

from __future__ import annotations

import errno

from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from backend.cli.exit_status import FAILED, MISUSED
from backend.db.engine import how_to_restore, is_damage
from backend.domain.validation import describe_fault, validation_message
from backend.errors import Conflict, InvalidInput, NotFound, RoundhouseError
from backend.settings import Settings, variable_of


def _settings_message(error: ValidationError) -> str:
    """Return what is wrong with the environment, by variable; a secret's value is left out."""
    sentences = []
    for item in error.errors():
        text, name = describe_fault(item), str(next(iter(item["loc"]), ""))
        field = Settings.model_fields.get(name)
        if field is not None and "SecretStr" in str(field.annotation):
            sentences.append(f"{variable_of(name)}: {text.replace('entries', 'characters')}")
        elif name:
            sentences.append(f"{variable_of(name) if field else name}: {text} (got {item['input']!r})")
        else:
            sentences.append(text)
    return "; ".join(sentences)


def explain(error: Exception) -> tuple[str, int] | None:
    """Return message and exit status for an expected error, None for a bug."""
    match error:
        case ValidationError():
            return _settings_message(error) if error.title == Settings.__name__ else validation_message(error), MISUSED
        case InvalidInput() | NotFound() | Conflict():
            return str(error), MISUSED
        case RoundhouseError():
            return str(error), FAILED
        case _ if is_damage(error):
            path = Settings().sqlite_path
            return f"{path.name if path else 'The database'} is damaged. {how_to_restore(path)}", FAILED
        case OperationalError():  # no such server, a locked or unreadable file, a full disk
            return f"The database does not answer: {error.orig}. Check DATABASE_URL.", FAILED
        case OSError():  # a full disk, a folder that can't be made, a file that can't be read
            place = f" ({error.filename})" if error.filename else ""
            remedy = (
                "Free some space and try again."
                if error.errno == errno.ENOSPC
                else "Check the path and its permissions."
            )
            return f"{error.strerror or error}{place}. {remedy}", FAILED
        case _:
            return None
