"""One line about an error, for people."""


def ran_out_of_memory(error: Exception) -> bool:
    """Tells whether Python, NumPy or JAX, which has no type for it, says so."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def describe_error(error: Exception) -> str:
    """Returns one line that says what went wrong, and whether it is a bug."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    # Errors of our own modules and of the file system are about the user's input.
    is_own = type(error).__module__.startswith("linearsr_jax")
    if is_own or isinstance(error, OSError | ValueError):
        return text
    if ran_out_of_memory(error):
        return f"out of memory: {text}"
    return (
        f"{type(error).__name__}: {text}; this is a bug, please report it with what "
        "--debug shows"
    )
