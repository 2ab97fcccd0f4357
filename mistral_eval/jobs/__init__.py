"""Jobs for machines that others schedule: batch scripts for Slurm, tasks for SkyPilot."""
