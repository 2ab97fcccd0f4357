"""MT-Bench (Zheng et al. 2023): what the judge is asked, and what its texts say."""
