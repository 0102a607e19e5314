"""Sampling, losses and schedules that fit a model to paired scans."""
