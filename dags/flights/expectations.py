"""What must hold of the published tables; the rows' types and bounds are checked before, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

AIRPORTS = ("EWR", "JFK", "LGA")


def flights() -> list[Expectation]:
    """A day of flights, or many: whole rows, from the three airports, delays that are possible."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeInSet(column="origin", value_set=list(AIRPORTS)),
        gxe.ExpectColumnValuesToMatchRegex(column="dest", regex="^[A-Z]{3}$"),
        gxe.ExpectColumnValuesToMatchRegex(column="ds", regex=r"^\d{4}-\d\d-\d\d$"),
        gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
        # A cancelled flight has no tail number; a day on which most are missing is a broken file.
        gxe.ExpectColumnValuesToNotBeNull(column="tailnum", mostly=0.6),
        gxe.ExpectColumnValuesToBeBetween(column="dep_delay", min_value=-60, max_value=1440),
        gxe.ExpectColumnValuesToBeBetween(column="arr_delay", min_value=-120, max_value=1440),
        gxe.ExpectColumnMedianToBeBetween(column="dep_delay", min_value=-15, max_value=90),
        gxe.ExpectColumnValuesToBeBetween(column="distance", min_value=10, max_value=6000),
        gxe.ExpectColumnValuesToBeBetween(column="air_time", min_value=10, max_value=900),
    ]


def weather() -> list[Expectation]:
    """A day of hourly weather, or many."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeInSet(column="origin", value_set=list(AIRPORTS)),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["origin", "time_hour"]),
        gxe.ExpectColumnValuesToNotBeNull(column="temp", mostly=0.9),
        gxe.ExpectColumnValuesToNotBeNull(column="wind_speed", mostly=0.9),
        gxe.ExpectColumnMeanToBeBetween(column="temp", min_value=-20, max_value=110),
        gxe.ExpectColumnValuesToBeBetween(column="visib", min_value=0, max_value=10),
    ]
