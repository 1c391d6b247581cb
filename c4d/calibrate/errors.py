"""What a calibration cannot do."""


class CalibrationError(RuntimeError):
    """A sampling, a sampler or a profile that a calibration cannot work with; the message says what would do."""
