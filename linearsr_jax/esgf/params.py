"""The constants of the knee detector.

None has the unit of a metric, or depends on how long a run will be. The paper gives
none
of them, because it picks its knee by eye. A comment gives the origin of each:

- *definition*: defines what a knee, a swing or a collapse is; a matter of taste.
- *statistics*: follows from the distribution of the quantity that it bounds.
- *benchmark*: chosen on seeds 0, 1 and 2 of experiments/202611_knee, whose page gives
  the results on seeds kept for the last run.
- *cost*: bounds the work of the search.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class KneeParams:
    """Constants of `find_knee`; the defaults are those of the published figures.

    Lengths are numbers of evaluations, unless a comment says otherwise.
    """

    # --- Which rises are possible (`rises`).
    # Time constants form a ladder of this ratio: coarser ones misplace the knee of
    # quiet curves (benchmark).
    tau_ratio: float = 2 ** (1 / 6)
    # Its ends, from a fraction of the first interval to a multiple of the time seen: a
    # time constant beyond ten times what was seen is a straight line so far (cost).
    tau_shortest: float = 0.5
    tau_longest: float = 10.0
    # k of stretched exponentials, from steep-then-slow to S-shaped (benchmark).
    exponents: tuple[float, ...] = (0.6, 0.8, 1.0, 1.3, 1.8, 3.0)
    # p of power laws. Below 1 a rise is as good as endless, and often explains a curve
    # that seems to have ended (benchmark).
    powers: tuple[float, ...] = (0.5, 1.5, 3.0)
    # m of logistics: how long before the middle, in time constants (benchmark).
    middles: tuple[float, ...] = (2.0, 4.0)
    # What is left of the pace after the kink of a rise that goes on (benchmark).
    slower_paces: tuple[float, ...] = (0.15, 0.4)
    # Noise assumed at least, as a part of the gain so far: how well the family fits
    # curves without noise at all (benchmark).
    coarseness: float = 0.004
    # Residuals of more standard deviations are spikes and weigh nothing: of normal
    # noise one evaluation in 16,000 (statistics).
    spike: float = 4.0
    # Neighbours whose residuals give the noise around an evaluation (benchmark).
    local_neighbours: int = 9
    # Noise may be correlated over so many lags (benchmark),
    correlated_lags: int = 5
    # and make up for so many evaluations at most: the long-run variance of AR(1) noise
    # with correlation 0.6 (statistics).
    most_inflation: float = 4.0

    # --- When a metric is on a plateau (`tracker`).
    # The plateau is what lies within this part of the whole rise below the level
    # (definition).
    tolerance: float = 0.05
    # Fewer evaluations do not tell a rise from noise: its fit has up to four
    # parameters (statistics).
    min_evaluations: int = 8
    # A rise is excluded when its misfit is beyond this; for one parameter, 7 happens
    # by chance in 0.8 % (statistics). Higher, and more plateaus are never decided.
    excluded_misfit: float = 7.0
    # No rise at all has to be excluded more clearly, because hundreds of rises compete
    # with it (benchmark: flat curves).
    risen_misfit: float = 25.0
    # A plateau is seen for at least so many evaluations, the knee among them
    # (benchmark).
    plateau_evaluations: int = 5
    # And its beginning is known this well: to so many evaluations (standard deviation
    # over the possible rises) and this part of those seen. Looser, and one knee in ten
    # is more than three evaluations off; tighter, and noisy curves are never decided
    # (benchmark).
    knee_spread: float = 1.0
    knee_spread_part: float = 0.05
    # A plateau is withdrawn when the newest evaluations, a window of one of these
    # lengths, exceed the earlier ones by so many tolerances and so many standard
    # errors (benchmark: two plateaus, drops of the learning rate).
    withdraw_windows: tuple[int, ...] = (4, 6, 8, 12, 16, 24)
    withdraw_tolerances: float = 1.5
    withdraw_errors: float = 3.0
    # The noise for that is the plateau's, or that of so many evaluations before the
    # window if they swing more (benchmark: oscillation).
    withdraw_recent: int = 12
    # The next rise is fitted with so many evaluations of the old plateau before it
    # (benchmark: two plateaus).
    lead: int = 4

    # --- Swings and collapse (`stability`).
    # Deviations are taken from the mean of so many neighbours, the highest and the
    # lowest of them apart, so that neither drift nor a spike counts; a median would
    # follow swings of period two (benchmark: oscillation, drift, spikes).
    trend_neighbours: int = 9
    trend_apart: int = 2
    # Their size is that over windows of the other length (benchmark).
    swing_window: int = 8
    # Oscillating: deviations of so many times the noise. Less, and white noise is often
    # taken for swings: robust deviations of eight values vary by a third (statistics).
    oscillating: float = 2.5
    # Swings smaller than this part of the rise are nobody's concern (definition).
    smallest_swing: float = 0.01
    # Lost: so many evaluations in a row below this part of the rise (never by noise),
    # or, as every metric of a run, not finite (definition).
    lost_rise: float = 0.5
    lost_in_a_row: int = 3
    # A rise that was never declared a plateau still counts for a collapse when it is so
    # many times the noise (benchmark: collapse).
    clear_rise: float = 8.0

    # --- Long curves (`knee`).
    # Longer ones are averaged in blocks of two, four, ...: the search takes time that
    # grows with the square of the length, and a knee is not sharper than that (cost).
    max_evaluations: int = 256


DEFAULT_PARAMS = KneeParams()
