"""The constants of the knee detector.

None has the unit of a metric, or depends on how long a run will be. The paper gives
none of them, because it picks its knee by eye. A comment gives the origin of each:

- *definition*: defines what a knee, a swing or a collapse is; a matter of taste.
- *statistics*: follows from the distribution of the quantity that it bounds.
- *benchmark*: chosen on seeds 0, 1 and 2 of experiments/202611_knee, whose page gives
  the results on seeds kept for the last run.
- *cost*: bounds the work of the search.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class KneeParams:
    """Constants of `find_knee`; the published figures use the defaults.

    Lengths are in evaluations, unless a comment says otherwise.
    """

    # --- Which rises are possible (`rises`).
    # Ratio of successive time constants. A larger ratio misplaces the knee of quiet
    # curves (benchmark).
    tau_ratio: float = 2 ** (1 / 6)
    # Shortest time constant, as a fraction of the first interval, and longest one, as a
    # multiple of the time seen. Beyond ten times that, a curve is still a straight line
    # (cost).
    tau_shortest: float = 0.5
    tau_longest: float = 10.0
    # Exponents k of stretched exponentials, from steep-then-slow to S-shaped
    # (benchmark).
    exponents: tuple[float, ...] = (0.6, 0.8, 1.0, 1.3, 1.8, 3.0)
    # Exponents p of power laws. With p below 1 a rise is practically endless, and often
    # explains a curve that seems to have ended (benchmark).
    powers: tuple[float, ...] = (0.5, 1.5, 3.0)
    # Middles m of logistics, in time constants (benchmark).
    middles: tuple[float, ...] = (2.0, 4.0)
    # Fractions of the pace after the kink of an endless line (benchmark).
    slower_paces: tuple[float, ...] = (0.15, 0.4)
    # Least noise assumed, as a fraction of the gain so far: the accuracy with which the
    # family fits curves without any noise (benchmark).
    coarseness: float = 0.004
    # Residuals beyond this many standard deviations are spikes and get no weight; in
    # normal noise that is one evaluation in 16,000 (statistics).
    spike: float = 4.0
    # Number of neighbours that give the noise around an evaluation (benchmark).
    local_neighbours: int = 9
    # Number of lags over which noise may be correlated (benchmark).
    correlated_lags: int = 5
    # Upper bound of `rises.Fit.inflation`: the long-run variance of AR(1) noise with
    # correlation 0.6 (statistics).
    most_inflation: float = 4.0

    # --- When a metric is on a plateau (`tracker`).
    # The plateau begins within this fraction of the rise below the level (definition).
    tolerance: float = 0.05
    # Fewer evaluations cannot tell a rise from noise, because its fit has up to four
    # parameters (statistics).
    min_evaluations: int = 8
    # A rise with a larger misfit is excluded; for one parameter, 7 occurs by chance in
    # 0.8 % (statistics). With a higher value more plateaus are never decided.
    excluded_misfit: float = 7.0
    # "No rise at all" must be excluded more clearly, because hundreds of rises compete
    # with it (benchmark: flat curves).
    risen_misfit: float = 25.0
    # Least number of evaluations on a plateau, including the knee (benchmark).
    plateau_evaluations: int = 5
    # Largest uncertainty of the knee, a standard deviation over the possible rises:
    # this many evaluations plus this fraction of those seen. With larger values, one
    # knee in ten is off by more than three evaluations; with smaller ones, noisy curves
    # are never decided (benchmark).
    knee_spread: float = 1.0
    knee_spread_part: float = 0.05
    # A plateau is withdrawn if the newest evaluations, in a window of one of these
    # lengths, exceed the earlier ones by this many tolerances plus this many standard
    # errors (benchmark: two plateaus, drops of the learning rate).
    withdraw_windows: tuple[int, ...] = (4, 6, 8, 12, 16, 24)
    withdraw_tolerances: float = 1.5
    withdraw_errors: float = 3.0
    # The noise is that of the plateau, or of this many evaluations before the window if
    # they swing more (benchmark: oscillation).
    withdraw_recent: int = 12
    # Number of evaluations of the old plateau that are fitted with the next rise
    # (benchmark: two plateaus).
    lead: int = 4

    # --- Swings and collapse (`stability`).
    # Deviations are taken from the mean of this many neighbours, without this many of
    # the highest and of the lowest, so that neither drift nor a spike counts; a median
    # would follow swings of period two (benchmark: oscillation, drift, spikes).
    trend_neighbours: int = 9
    trend_apart: int = 2
    # Length of the windows in which deviations are measured (benchmark).
    swing_window: int = 8
    # A curve oscillates if deviations exceed this many times the noise. With a smaller
    # value white noise often counts as swings, because robust deviations of eight
    # values vary by a third (statistics).
    oscillating: float = 2.5
    # Swings smaller than this fraction of the rise do not matter (definition).
    smallest_swing: float = 0.01
    # A metric is lost after this many consecutive evaluations below this fraction of
    # the rise, which noise never causes; a run, after as many without a finite metric
    # (definition).
    lost_rise: float = 0.5
    lost_in_a_row: int = 3
    # Without a plateau, a rise counts for a collapse if it is this many times the noise
    # (benchmark: collapse).
    clear_rise: float = 8.0

    # --- Long curves (`knee`).
    # Longer curves are averaged in blocks of two, four, ... The time of the search
    # grows with the square of the length, and a knee is not sharper than a block
    # (cost).
    max_evaluations: int = 256


DEFAULT_PARAMS = KneeParams()
