-- The first tables. Times are ns since epoch, UTC; "day" is the UTC day in which a row's time falls, less one ns, so
-- that a bar which ends at midnight belongs to the day it describes. The lake enforces no keys: who writes keeps them.

CREATE TABLE bars (
    instrument VARCHAR NOT NULL,
    ts_event BIGINT NOT NULL,
    open DOUBLE NOT NULL,
    high DOUBLE NOT NULL,
    low DOUBLE NOT NULL,
    close DOUBLE NOT NULL,
    volume DOUBLE NOT NULL,
    buy_volume DOUBLE NOT NULL,
    sell_volume DOUBLE NOT NULL,
    vwap DOUBLE NOT NULL,
    trades DOUBLE NOT NULL,
    missing DOUBLE NOT NULL,
    source VARCHAR NOT NULL,
    day DATE NOT NULL
);
ALTER TABLE bars SET PARTITIONED BY (day);

CREATE TABLE features (
    instrument VARCHAR NOT NULL,
    ts_event BIGINT NOT NULL,
    lrv5 DOUBLE NOT NULL,
    lrv15 DOUBLE NOT NULL,
    lrv60 DOUBLE NOT NULL,
    lrv240 DOUBLE NOT NULL,
    ew10 DOUBLE NOT NULL,
    ew60 DOUBLE NOT NULL,
    lrng5 DOUBLE NOT NULL,
    lrng30 DOUBLE NOT NULL,
    ret1 DOUBLE NOT NULL,
    abs1 DOUBLE NOT NULL,
    lvol DOUBLE NOT NULL,
    lvol_d DOUBLE NOT NULL,
    miss DOUBLE NOT NULL,
    tod_sin DOUBLE NOT NULL,
    tod_cos DOUBLE NOT NULL,
    weekend DOUBLE NOT NULL,
    source VARCHAR NOT NULL,
    day DATE NOT NULL
);
ALTER TABLE features SET PARTITIONED BY (day);

CREATE TABLE examples (
    instrument VARCHAR NOT NULL,
    ts_event BIGINT NOT NULL,
    ts_available BIGINT NOT NULL,
    horizon_s INTEGER NOT NULL,
    lrv5 DOUBLE NOT NULL,
    lrv15 DOUBLE NOT NULL,
    lrv60 DOUBLE NOT NULL,
    lrv240 DOUBLE NOT NULL,
    ew10 DOUBLE NOT NULL,
    ew60 DOUBLE NOT NULL,
    lrng5 DOUBLE NOT NULL,
    lrng30 DOUBLE NOT NULL,
    ret1 DOUBLE NOT NULL,
    abs1 DOUBLE NOT NULL,
    lvol DOUBLE NOT NULL,
    lvol_d DOUBLE NOT NULL,
    miss DOUBLE NOT NULL,
    tod_sin DOUBLE NOT NULL,
    tod_cos DOUBLE NOT NULL,
    weekend DOUBLE NOT NULL,
    price_change DOUBLE NOT NULL,
    direction DOUBLE, -- null: the price did not move
    volatility DOUBLE NOT NULL,
    source VARCHAR NOT NULL,
    day DATE NOT NULL
);
ALTER TABLE examples SET PARTITIONED BY (day);

CREATE TABLE predictions (
    prediction_id VARCHAR NOT NULL,
    instrument VARCHAR NOT NULL,
    ts_event BIGINT NOT NULL,
    horizon_s INTEGER NOT NULL,
    price_change DOUBLE NOT NULL,
    direction DOUBLE NOT NULL,
    volatility DOUBLE NOT NULL,
    model_version BIGINT NOT NULL,
    n_learned BIGINT NOT NULL,
    model_watermark BIGINT NOT NULL,
    predicted_at BIGINT NOT NULL,
    day DATE NOT NULL
);
ALTER TABLE predictions SET PARTITIONED BY (day);

-- How far each topic's partition has landed, in the same transaction as its rows.
CREATE TABLE consumer_offsets (
    topic VARCHAR NOT NULL,
    part INTEGER NOT NULL,
    next_offset BIGINT NOT NULL,
    last_ts BIGINT NOT NULL,
    log VARCHAR NOT NULL, -- identity of the log that the offset belongs to
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL
);

-- For people: the same rows with times one can read.
CREATE VIEW bars_utc AS SELECT make_timestamp_ns(ts_event) AS at, * EXCLUDE (day) FROM bars;
CREATE VIEW features_utc AS SELECT make_timestamp_ns(ts_event) AS at, * EXCLUDE (day) FROM features;
CREATE VIEW examples_utc AS
SELECT make_timestamp_ns(ts_event) AS at, make_timestamp_ns(ts_available) AS available, * EXCLUDE (day) FROM examples;
CREATE VIEW predictions_utc AS
SELECT
    make_timestamp_ns(ts_event) AS at,
    make_timestamp_ns(predicted_at) AS answered,
    (ts_event - model_watermark) / 1e9 AS model_age_s,
    * EXCLUDE (day)
FROM predictions;
