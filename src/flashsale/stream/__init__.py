"""Live stock for many viewers, the half that both backends share: what is said, to whom, and when. No I/O and no clock."""
