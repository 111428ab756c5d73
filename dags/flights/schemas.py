"""The raw files of New York's flights in 2013, column by column. ``NA`` stands for a missing value."""

from __future__ import annotations

from airflow_ml_provider import Column, Schema

FLIGHTS = Schema(
    columns=(
        # The local date of the scheduled departure.
        Column("year", "int64", nullable=False, minimum=1987, maximum=2100),
        Column("month", "int64", nullable=False, minimum=1, maximum=12),
        Column("day", "int64", nullable=False, minimum=1, maximum=31),
        # Local times as HHMM; actual ones are missing for cancelled flights, delays in minutes too.
        Column("dep_time", "int64", minimum=1, maximum=2400),
        Column("sched_dep_time", "int64", nullable=False, minimum=0, maximum=2400),
        Column("dep_delay", "int64"),
        Column("arr_time", "int64", minimum=1, maximum=2400),
        Column("sched_arr_time", "int64", minimum=0, maximum=2400),
        Column("arr_delay", "int64"),
        Column("carrier", nullable=False),
        Column("flight", "int64", nullable=False, minimum=1),
        Column("tailnum"),
        Column("origin", nullable=False),
        Column("dest", nullable=False),
        Column("air_time", "int64", minimum=0),
        Column("distance", "int64", nullable=False, minimum=0),
        # The scheduled departure again: local hour and minute, and its hour as UTC.
        Column("hour", "int64", minimum=0, maximum=24),
        Column("minute", "int64", minimum=0, maximum=59),
        Column("time_hour", "timestamp", nullable=False),
    ),
    key=("year", "month", "day", "carrier", "flight", "origin", "sched_dep_time"),
    null_values=("NA", ""),
)

WEATHER = Schema(
    columns=(
        Column("origin", nullable=False),
        # Local; time_hour is the same hour as UTC, and unique where the clocks are set back.
        Column("year", "int64", nullable=False, minimum=1987, maximum=2100),
        Column("month", "int64", nullable=False, minimum=1, maximum=12),
        Column("day", "int64", nullable=False, minimum=1, maximum=31),
        Column("hour", "int64", nullable=False, minimum=0, maximum=23),
        # Degrees Fahrenheit and per cent.
        Column("temp", "float64", minimum=-60, maximum=140),
        Column("dewp", "float64", minimum=-80, maximum=100),
        Column("humid", "float64", minimum=0, maximum=100.5),
        # Degrees and miles per hour. One gauge reported 1,048 mph at Newark on 12 February.
        Column("wind_dir", "int64", minimum=0, maximum=360),
        Column("wind_speed", "float64", minimum=0, maximum=200),
        Column("wind_gust", "float64", minimum=0, maximum=250),
        # Inches, millibars and miles.
        Column("precip", "float64", minimum=0, maximum=20),
        Column("pressure", "float64", minimum=850, maximum=1090),
        Column("visib", "float64", minimum=0, maximum=100),
        Column("time_hour", "timestamp", nullable=False),
    ),
    key=("origin", "time_hour"),
    null_values=("NA", ""),
)

PLANES = Schema(
    columns=(
        Column("tailnum", nullable=False),
        Column("year", "int64", minimum=1900, maximum=2100),
        Column("type"),
        Column("manufacturer"),
        Column("model"),
        Column("engines", "int64", minimum=1),
        Column("seats", "int64", minimum=1),
        Column("speed", "int64", minimum=1),
        Column("engine"),
    ),
    key=("tailnum",),
    null_values=("NA", ""),
)
