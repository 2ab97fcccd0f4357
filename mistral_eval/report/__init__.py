"""What people read: tables, the HTML report, published baselines."""
