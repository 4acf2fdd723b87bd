-- Run once, when PostgreSQL's folder is made.
create database mlflow;
create database mlflow_auth;
create database prefect;
