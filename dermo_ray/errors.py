"""The one exception a person should read: `UserError` ends a job with one line and exit status 2."""


class UserError(Exception):
    """Something the user can put right: a bad setting, a missing folder, too few resources.

    The message is one line that names the cause and the fix.
    """
