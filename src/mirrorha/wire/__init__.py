"""The wire: limits, frames and codecs. Pure; bytes in, messages out."""
